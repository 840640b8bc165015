"""What comes from files: read by type and range, and compared with the digest of its writer."""
