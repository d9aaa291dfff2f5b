"""The wake-up hook: says to a push gateway that something waits for a device that is not connected, and never what."""
