"""The API document, letter for letter in `document.txt`, held against a running gateway."""
