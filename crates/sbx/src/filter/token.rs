//! Bytes to what a terminal in UTF-8 mode sees: strictly decoded, so that
//! nothing hides in an overlong or broken sequence.

/// One thing in the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token {
    /// A byte below 0x80.
    Ascii(u8),
    /// A C1 control that was encoded as two bytes: the second one.
    C1(u8),
    /// Any other character of two to four bytes.
    Char(Encoded),
    /// A byte that belongs to no character.
    Stray(u8),
}

/// The bytes of one character.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Encoded {
    bytes: [u8; 4],
    len: usize,
}

impl Encoded {
    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// The decoder: holds at most three bytes of a character.
#[derive(Default, Debug)]
pub(super) struct Tokens {
    bytes: [u8; 4],
    len: usize,
}

impl Tokens {
    /// Takes a byte and says what is complete with it.
    pub(super) fn push(&mut self, byte: u8, mut say: impl FnMut(Token)) {
        if self.len > 0 {
            if self.continues(byte) {
                self.keep(byte);
                if self.len == self.wanted() {
                    say(self.complete());
                }
                return;
            }
            self.finish(&mut say);
        }
        match byte {
            0..=0x7f => say(Token::Ascii(byte)),
            0xc2..=0xf4 => self.keep(byte),
            _ => say(Token::Stray(byte)),
        }
    }

    /// The character that was begun does not go on.
    pub(super) fn finish(&mut self, mut say: impl FnMut(Token)) {
        let Self { bytes, len } = std::mem::take(self);
        for byte in bytes.iter().take(len) {
            say(Token::Stray(*byte));
        }
    }

    fn keep(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
            self.len += 1;
        }
    }

    fn lead(&self) -> u8 {
        self.bytes.first().copied().unwrap_or_default()
    }

    fn wanted(&self) -> usize {
        match self.lead() {
            0xf0.. => 4,
            0xe0.. => 3,
            _ => 2,
        }
    }

    /// Table 3-7 of the Unicode Standard.
    fn continues(&self, byte: u8) -> bool {
        match (self.len, self.lead()) {
            (1, 0xe0) => matches!(byte, 0xa0..=0xbf),
            (1, 0xed) => matches!(byte, 0x80..=0x9f),
            (1, 0xf0) => matches!(byte, 0x90..=0xbf),
            (1, 0xf4) => matches!(byte, 0x80..=0x8f),
            _ => matches!(byte, 0x80..=0xbf),
        }
    }

    fn complete(&mut self) -> Token {
        let Self { bytes, len } = std::mem::take(self);
        match bytes {
            [0xc2, second @ 0x80..=0x9f, ..] if len == 2 => Token::C1(second),
            _ => Token::Char(Encoded { bytes, len }),
        }
    }
}
