from tests.faults.fault import Group, Setup
GROUP = Group("files", Setup())
