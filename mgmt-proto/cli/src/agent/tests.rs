use super::{identities, push, signature};

fn answer() -> Vec<u8> {
    let mut text = vec![12, 0, 0, 0, 2];
    for (algorithm, length) in [("ssh-rsa", 40_usize), ("ssh-ed25519", 32)] {
        let mut blob = Vec::new();
        push(&mut blob, algorithm.as_bytes());
        push(&mut blob, &vec![7; length]);
        push(&mut text, &blob);
        push(&mut text, b"me@here");
    }
    text
}

#[test]
fn only_ed25519_keys_count() {
    assert_eq!(identities(&answer()), Some(vec![([7; 32], "me@here".into())]));
    assert_eq!(identities(&[12, 0, 0, 0, 0]), Some(Vec::new()));
    assert_eq!(identities(&[5]), None, "a failure");
}

#[test]
fn answers_that_are_cut_or_too_long_are_refused() {
    let mut signed = vec![14, 0, 0, 0, 83];
    push(&mut signed, b"ssh-ed25519");
    push(&mut signed, &[9; 64]);
    assert_eq!(signature(&signed), Some([9; 64]));
    for bytes in [answer(), signed] {
        for length in 0..bytes.len() {
            assert_eq!(identities(&bytes[..length]), None);
            assert_eq!(signature(&bytes[..length]), None);
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(identities(&longer).is_none() && signature(&longer).is_none());
        for index in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[index] = value;
                let _ = (identities(&changed), signature(&changed));
            }
        }
    }
}
