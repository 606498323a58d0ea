"""Dense heads: what turns an encoder's maps into masks and boxes."""
