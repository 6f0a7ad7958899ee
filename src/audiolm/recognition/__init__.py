"""What recordings say, as text: transcripts, and recognisers that write them, ours and public ones."""
