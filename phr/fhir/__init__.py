"""What the data means: lossless JSON, kinds, references, readers, labels. No I/O, no database."""
