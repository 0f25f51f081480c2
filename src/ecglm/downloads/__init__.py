"""Official files of every dataset: fetched, checked, unpacked; what needs an agreement is explained."""
