"""Planning and opening of devices, precision, and facts about the machine."""
