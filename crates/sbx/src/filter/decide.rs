//! Which complete sequences are let through.

/// Whether a control sequence may pass: its parameters and intermediates,
/// and its final byte.
pub(super) fn csi_allowed(body: &[u8], last: u8) -> bool {
    let intermediates = body.iter().position(|byte| (0x20..=0x2f).contains(byte));
    let (parameters, intermediates) = body.split_at(intermediates.unwrap_or(body.len()));
    let private = parameters
        .first()
        .is_some_and(|byte| (0x3c..=0x3f).contains(byte));
    match (intermediates, last) {
        // Parameters behind intermediates: no terminal agrees on those.
        (rest, _) if rest.iter().any(|byte| !(0x20..=0x2f).contains(byte)) => false,
        // Reports of icon label and title.
        (b"", b't') if !private => !matches!(first_number(parameters), 20 | 21),
        // Media copy, in any form.
        (b"", b'i') => false,
        // VT52 mode.
        (b"", b'l') if parameters.first() == Some(&b'?') => !numbers(parameters).any(|n| n == 2),
        // DECRQCRA: a checksum of what is on the screen.
        (b"*", b'y') => false,
        // DECRQPSR and DECRQTSR: state of the terminal as a string.
        (b"$", b'w' | b'u') => false,
        _ => true,
    }
}

/// The parameters as numbers; an empty one is 0, a huge one stays huge.
fn numbers(parameters: &[u8]) -> impl Iterator<Item = u32> {
    parameters
        .split(|byte| *byte == b';' || *byte == b':')
        .map(|digits| {
            let digits = digits.iter().filter(|byte| byte.is_ascii_digit());
            digits.fold(0_u32, |number, digit| {
                number
                    .saturating_mul(10)
                    .saturating_add(u32::from(digit - b'0'))
            })
        })
}

fn first_number(parameters: &[u8]) -> u32 {
    numbers(parameters).next().unwrap_or(0)
}

/// Whether an operating system command may pass: an allow list.
pub(super) fn osc_allowed(body: &[u8]) -> bool {
    let (number, rest) = match body.iter().position(|byte| *byte == b';') {
        Some(at) => body.split_at(at),
        None => (body, &[][..]),
    };
    if number.is_empty() || number.len() > 4 || !number.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let text = rest.strip_prefix(b";").unwrap_or_default();
    match first_number(number) {
        // Titles; their report (CSI 21 t) is dropped.
        0..=2 => true,
        // Colours and their queries, answered as rgb:…
        4 | 5 | 10..=19 | 104 | 105 | 110..=119 => true,
        // Hyperlinks: nothing happens until the user follows one.
        8 => true,
        9 => notification_or_progress(text),
        // The pointer's shape, not the query for it.
        22 => !text.contains(&b'?'),
        // Text of another size.
        66 => true,
        // Marks of prompts and commands.
        133 => true,
        777 => text.starts_with(b"notify;"),
        _ => false,
    }
}

/// OSC 9 is a notification of iTerm2, or with a number in front a command of
/// ConEmu, of which only progress (4) is let through.
fn notification_or_progress(text: &[u8]) -> bool {
    let command = text.split(|byte| *byte == b';').next().unwrap_or_default();
    let numeric = !command.is_empty() && command.iter().all(u8::is_ascii_digit);
    let digits = |byte: &u8| byte.is_ascii_digit() || *byte == b';';
    if numeric {
        command == b"4" && text.iter().all(digits)
    } else {
        true
    }
}

/// Whether a device control string may pass: only the two that begin and end
/// a synchronised update. Sixel images never get here.
pub(super) fn dcs_allowed(body: &[u8]) -> bool {
    matches!(body, b"=1s" | b"=2s")
}

/// Whether a command is one of the Linux console's, which have no end.
pub(super) fn is_linux_palette(body: &[u8]) -> bool {
    match body {
        b"R" => true,
        [b'P', digits @ ..] => digits.len() == 7 && digits.iter().all(u8::is_ascii_hexdigit),
        _ => false,
    }
}
