from tests.faults.fault import Group, Setup
GROUP = Group("process", Setup())
