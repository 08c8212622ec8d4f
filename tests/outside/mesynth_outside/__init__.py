"""What a laboratory may add to mesynth without an edit in its repository; its entry points name everything here."""
