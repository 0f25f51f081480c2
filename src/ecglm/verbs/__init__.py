"""What each verb of the command line does: read its options, make one call, say where the result lies."""
