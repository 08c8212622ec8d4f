"""From frames on disk to aligned crops and optical flow."""
