"""Builder of the embedded demo's images: real pictures of three domains with questions whose answers are known."""
