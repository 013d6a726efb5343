from tests.faults.fault import Group, Setup
GROUP = Group("pictures", Setup())
