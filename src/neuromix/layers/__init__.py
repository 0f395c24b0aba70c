"""What else a block is made of: channel mixers, norms, stems, residuals, dropout."""
