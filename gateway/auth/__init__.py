"""Who asks. One interface, so that identity providers can be exchanged."""
