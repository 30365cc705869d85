"""One script a claim, each against its peers in the same run; RESULTS.md is what they wrote."""
