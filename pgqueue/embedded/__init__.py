"""What the embedded PostgreSQL is made of: its programs, the user it runs as, its pid file. Used by `pgqueue.dev`."""
