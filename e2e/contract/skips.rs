//! What this machine cannot run. Its output is shown last.

use e2e::skips_here;

#[test]
fn skips_are_on_the_list_and_told() {
    let (skipped, unknown) = skips_here();
    assert_eq!(unknown, Vec::<String>::new(), "no fact that is known");
    for line in &skipped {
        println!("skipped here: {line}");
    }
    println!("{} skipped", skipped.len());
}
