"""Images, texts and token files: reading, choosing, storing."""
