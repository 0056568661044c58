"""The REST API: validates, authorises, reads the projection and hands bytes through. Never imports torch."""
