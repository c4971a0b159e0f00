//! Tests of the filter: what is dropped, and what passes byte for byte.

use proptest::prelude::*;

use super::*;

/// The whole stream, with what is appended at its end.
fn filtered_in(chunks: &[&[u8]]) -> Vec<u8> {
    let mut filter = TerminalFilter::new();
    let mut output = Vec::new();
    for chunk in chunks {
        filter.filter(chunk, &mut output);
    }
    filter.finish(&mut output);
    output
}

fn filtered(input: &[u8]) -> Vec<u8> {
    filtered_in(&[input])
}

#[track_caller]
fn passes(input: &[u8]) {
    assert_eq!(
        filtered(input).escape_ascii().to_string(),
        input.escape_ascii().to_string()
    );
}

#[track_caller]
fn drops(input: &[u8]) {
    let mut stream = b"a".to_vec();
    stream.extend_from_slice(input);
    stream.extend_from_slice(b"b");
    assert_eq!(filtered(&stream).escape_ascii().to_string(), "ab");
}

#[test]
fn text_passes_byte_for_byte() {
    passes(b"plain\r\n\ttext\x08\x7f\0\x07");
    passes("Grüße “日本” 🦀 ✝".as_bytes());
    // Latin-1, as a program of another age prints it.
    passes(b"caf\xe9 \xff");
}

#[test]
fn what_a_full_screen_program_needs_passes() {
    for sequence in [
        &b"\x1b[2J\x1b[1;1H\x1b[38;2;1;2;3m\x1b[38:2::1:2:3m\x1b[0m"[..],
        b"\x1b[?1049h\x1b[?25l\x1b[?1000;1006h\x1b[?25h\x1b[?1000;1006;1049l",
        b"\x1b(0\x1b)B\x1b7\x1b8\x1b=\x1b>\x1bM\x1bc\x1b#8",
        b"\x1b[!p\x1b[2 q\x1b[?2026$p\x1b[4;2m",
        b"\xc2\x9b2J\xc2\x85",
    ] {
        passes(sequence);
    }
}

#[test]
fn ordinary_queries_pass() {
    for sequence in [
        &b"\x1b[c"[..],
        b"\x1b[>c",
        b"\x1b[>0q",
        b"\x1b[6n",
        b"\x1b[?6n",
        b"\x1b[?u",
        b"\x1b[>1u\x1b[<u",
        b"\x1b[18t",
        b"\x1b[14t",
        b"\x1b]11;?\x07",
        b"\x1b]10;?\x1b\\",
        b"\x1b]4;1;?\x07",
    ] {
        passes(sequence);
    }
}

#[test]
fn titles_links_colours_progress_and_images_pass() {
    for sequence in [
        &b"\x1b]0;title \xe2\x80\x9cquoted\xe2\x80\x9d\x07"[..],
        b"\x1b]2;t\x1b\\",
        b"\x1b]8;id=1;https://example.com/a?b=c\x1b\\link\x1b]8;;\x1b\\",
        b"\x1b]9;4;1;50\x07",
        b"\x1b]9;build done\x07",
        b"\x1b]777;notify;title;body\x07",
        b"\x1b]133;A\x07",
        b"\x1b]104\x07",
        b"\x1bP0;1;0q#0;2;0;0;0#0~~@@vv\r\n-\x1b\\",
        b"\x1bP=1s\x1b\\\x1bP=2s\x1b\\",
    ] {
        passes(sequence);
    }
}

#[test]
fn the_clipboard_is_out_of_reach() {
    for sequence in [
        &b"\x1b]52;c;aGk=\x07"[..],
        b"\x1b]52;c;?\x1b\\",
        b"\x1b]052;c;aGk=\x07",
        b"\x1b]0052;c;aGk=\x07",
        b"\xc2\x9d52;c;aGk=\xc2\x9c",
        b"\x1b]52;c;aGk=\xc2\x9c",
        b"\x1b]5522;type=read\x07",
        b"\x1b]1337;Copy=:aGk=\x07",
    ] {
        drops(sequence);
    }
}

#[test]
fn files_are_out_of_reach() {
    for sequence in [
        &b"\x1b]1337;File=name=eA==;inline=0:aGk=\x07"[..],
        b"\x1b]5113;ac=send;id=x\x1b\\",
        b"\x1b_Gt=t,f=100;L2V0Yy9wYXNzd2Q=\x1b\\",
        b"\xc2\x9fGa=q\xc2\x9c",
        b"\x1b[5i",
        b"\x1b[?4i",
    ] {
        drops(sequence);
    }
}

#[test]
fn the_terminal_types_nothing_of_the_sandbox() {
    for sequence in [
        &b"\x05"[..],
        b"\x1b[21t",
        b"\x1b[020t",
        b"\x1b[21;0t",
        b"\xc2\x9b21t",
        b"\x1bP$qm\x1b\\",
        b"\x1bP+q544e\x1b\\",
        b"\xc2\x90$qm\xc2\x9c",
        b"\x1b]50;?\x07",
        b"\x1b]99;i=evil:p=?;\x1b\\",
        b"\x1b]21;evil=?\x1b\\",
        b"\x1b]60\x07",
        b"\x1b[1;1;1;1;24;80*y",
        b"\x1b[1$w",
        b"\x1b[1$u",
    ] {
        drops(sequence);
    }
}

#[test]
fn commands_to_what_shows_the_terminal_are_dropped() {
    for sequence in [
        &b"\x1bP1;1|17/6C73\x1b\\"[..],
        b"\x1bPtmux;\x1b\\",
        b"\x1b]51;Efind-file\x07",
        b"\x1b]9;6;macro\x07",
        b"\x1b]9;9;/\x07",
        b"\x1b]7;file:///etc\x07",
        b"\x1b]633;P;Cwd=/\x07",
        b"\x1b]777;command;x\x07",
        b"\x1b]3;WM_NAME=x\x07",
        b"\x1b]lname\x1b\\",
        b"\x1b]\x07",
        b"\x1bktitle\x1b\\",
        b"\x1bXsos\x1b\\",
        b"\x1b^pm\x1b\\",
        b"\x1b]PFF00AA0",
        b"\x1b]R",
    ] {
        drops(sequence);
    }
}

#[test]
fn the_terminal_stays_in_the_mode_that_is_filtered_for() {
    for sequence in [
        &b"\x1b%@"[..],
        b"\x1b%G",
        b"\x1b G",
        b"\x1b[?2l",
        b"\x1b[?25;2l",
    ] {
        drops(sequence);
    }
    passes(b"\x1b[?25l\x1b[?25h");
    passes(b"\x1b[2l");
}

#[test]
fn a_nested_sequence_cannot_come_out_of_a_dropped_one() {
    // A multiplexer would unwrap it; here the string ends at its first ESC.
    drops(b"\x1bPtmux;\x1b\x1b]52;c;aGk=\x07");
    assert_eq!(filtered(b"\x1b]0;x\x1b]52;c;aGk=\x07y"), b"y");
    assert_eq!(filtered(b"\x1b[2\x1b]52;c;aGk=\x07y"), b"y");
    assert_eq!(filtered(b"\x1b\x1b\x1b]52;c;aGk=\x07y"), b"y");
}

#[test]
fn lone_bytes_are_no_commands() {
    assert_eq!(
        filtered(b"\x9d52;c;aGk=\x07"),
        "\u{fffd}52;c;aGk=\x07".as_bytes()
    );
    // Overlong forms of ESC and of C1 controls.
    assert_eq!(filtered(b"\xc0\x9b]"), b"\xc0\xef\xbf\xbd]");
    assert_eq!(
        filtered(b"\xe0\x82\x9d52"),
        b"\xe0\xef\xbf\xbd\xef\xbf\xbd52"
    );
    // A character cut in two by something that is dropped.
    assert_eq!(filtered(b"\xc2\x05\x9d52"), b"\xc2\xef\xbf\xbd52");
}

#[test]
fn control_characters_spoil_a_string() {
    drops(b"\x1b]0;a\nb\x07");
    drops(b"\x1b]0;a\x9db\x07");
    drops(b"\x1b]0;a\xc2\x9d52;c;x\x07");
    assert_eq!(filtered(b"\x1b]0;a\x18b"), b"b");
}

#[test]
fn an_image_ends_at_what_does_not_belong_in_it() {
    assert_eq!(filtered(b"\x1bPq~~\x05\x1b\\x"), b"\x1bPq~~\x1b\\x");
    assert_eq!(filtered(b"\x1bPq~~\x1b]52;c;a\x07x"), b"\x1bPq~~\x1b\\x");
    assert_eq!(filtered(b"\x1bPq~~"), b"\x1bPq~~\x1b\\");
}

#[test]
fn what_a_killed_program_left_on_is_switched_off() {
    assert_eq!(
        filtered(b"\x1b[?1049h\x1b[?1000;1006h\x1b[?25l\x1b[>1u"),
        b"\x1b[?1049h\x1b[?1000;1006h\x1b[?25l\x1b[>1u\x1b[<1u\x1b[?1006l\x1b[?1000l\x1b[?1049l\x1b[?25h"
    );
    passes(b"\x1b[?1049h\x1b[?1049l\x1b[?7h");
}

#[test]
fn what_is_held_is_bounded() {
    let mut filter = TerminalFilter::new();
    let mut output = Vec::new();
    filter.filter(b"\x1b]0;", &mut output);
    for _ in 0..1000 {
        filter.filter(&[b'x'; 1000], &mut output);
        assert!(filter.held.capacity() <= 2 * MAX_STRING);
    }
    filter.filter(b"\x07after", &mut output);
    assert_eq!(output, b"after");
    filter.filter(b"\x1b[", &mut output);
    filter.filter(&[b'1'; 10_000], &mut output);
    assert!(filter.held.capacity() <= 2 * MAX_STRING);
}

#[test]
fn half_a_sequence_at_the_end_is_not_shown() {
    assert_eq!(filtered(b"a\x1b]52;c;aGk="), b"a");
    assert_eq!(filtered(b"a\x1b["), b"a");
    assert_eq!(filtered(b"a\xe2\x80"), b"a\xe2\xef\xbf\xbd");
}

/// Bytes that are likely to meet the interesting states.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\x1b]".to_vec()),
        Just(b"\x1b[".to_vec()),
        Just(b"\x1bP".to_vec()),
        Just(b"\x1b\\".to_vec()),
        Just(b"\xc2\x9d".to_vec()),
        Just(b"\xc2\x9c".to_vec()),
        Just(b"52;c;aGk=".to_vec()),
        Just(b"0;t".to_vec()),
        Just(b"q~~".to_vec()),
        Just(b"21t".to_vec()),
        Just("“é🦀".as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn the_split_into_chunks_does_not_matter(input in stream(), cut in any::<prop::sample::Index>()) {
        let whole = filtered(&input);
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        prop_assert_eq!(&filtered_in(&bytes), &whole);
        let (head, tail) = input.split_at(cut.index(input.len() + 1));
        prop_assert_eq!(&filtered_in(&[head, tail]), &whole);
    }

    #[test]
    fn filtering_twice_changes_nothing(input in stream()) {
        let once = filtered(&input);
        prop_assert_eq!(filtered(&once), once);
    }

    #[test]
    fn nothing_dangerous_is_left(input in stream()) {
        let output = filtered(&input);
        let has = |needle: &[u8]| output.windows(needle.len()).any(|window| window == needle);
        prop_assert!(!has(b"\x1b]52"));
        prop_assert!(!has(b"\xc2\x9d52"));
        prop_assert!(!has(b"\x1b[21t"));
        prop_assert!(!has(b"\x1bP$"));
        prop_assert!(!has(b"\x05"));
    }

    #[test]
    fn printable_text_passes_byte_for_byte(text in "\\PC*") {
        prop_assert_eq!(filtered(text.as_bytes()), text.as_bytes());
    }
}

/// What covers and uncovers a screen on which `before` was drawn.
fn covered(before: &[u8]) -> (String, String, bool) {
    let mut filter = TerminalFilter::new();
    filter.filter(before, &mut Vec::new());
    let (mut cover, mut uncover) = (Vec::new(), Vec::new());
    filter.cover(b"asked", &mut cover);
    let redraws = filter.uncover(&mut uncover);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(cover), text(uncover), redraws)
}

#[test]
fn an_ordinary_screen_is_brought_back_by_the_terminal() {
    let (cover, uncover, redraws) = covered(b"$ make\r\n");
    assert!(cover.starts_with("\x1b[?1049h") && cover.ends_with("asked"));
    assert_eq!(uncover, "\x1b[0m\x1b[?1049l\x1b[?25h");
    assert!(!redraws);
}

#[test]
fn a_program_on_the_alternate_screen_keeps_it_and_draws_anew() {
    let (cover, uncover, redraws) = covered(b"\x1b[?1049h\x1b[?25l\x1b[?2026h");
    assert!(!cover.contains("1049") && cover.contains("\x1b[?2026l"));
    assert!(!uncover.contains("1049") && !uncover.contains("25h"));
    assert!(uncover.ends_with("\x1b[?2026h") && redraws);
}

#[test]
fn a_screen_is_covered_once_and_an_image_on_its_way_is_given_up() {
    let mut filter = TerminalFilter::new();
    let mut output = Vec::new();
    filter.filter(b"\x1bPq#0", &mut output);
    output.clear();
    filter.cover(b"one", &mut output);
    filter.cover(b"two", &mut output);
    let text = String::from_utf8(output.clone()).unwrap();
    assert!(text.starts_with("\x1b\\\x1b[?1049h"), "{text:?}");
    assert_eq!(text.matches("1049h").count(), 1);
    output.clear();
    filter.uncover(&mut output);
    filter.filter(b"~~\x1b\\text", &mut output);
    assert!(output.ends_with(b"\x1b[?25htext"), "{output:?}");
}
