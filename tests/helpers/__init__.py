"""What several tests share: small runs, networks, processes, files and pages to look at."""
