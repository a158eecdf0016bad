"""The page on which a person judges suspicious labels. It opens from disk, without a server.

`page.write_review_page` writes review.html into a directory with label_issues.csv. The page's own
markup, style and scripts are in the directory `assets` of this package.
"""
