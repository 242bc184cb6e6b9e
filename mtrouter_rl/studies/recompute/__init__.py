"""Are the numbers of a file those of its episodes?"""
