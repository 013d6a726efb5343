"""One predict request from its bytes to its answer, whichever dialect and lane it came by."""
