"""What strangers wrote: read without running it, and checked before memory is taken for it. See docs/reliability.md."""
