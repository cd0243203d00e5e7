"""What becomes of records that no stage could process."""
