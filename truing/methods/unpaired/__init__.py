"""Single replies that were rated -> a trained policy."""
