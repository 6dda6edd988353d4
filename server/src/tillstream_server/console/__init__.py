"""Head office's web pages: complete as served, by forms and links; scripts keep them up to date and draw charts."""
