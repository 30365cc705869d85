"""Reports: one HTML file from the results of any commands. It reads files and knows no method."""
