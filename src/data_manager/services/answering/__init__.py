"""From a question about one series to bytes: asked, read in pages, written in the form wanted."""
