use super::*;
use crate::iscsi::chap::Secret;
use alloc::vec;

const SECRET: &[u8] = b"initiator secret";
const TARGET_SECRET: &[u8] = b"target secret..";
const OURS: [u8; 4] = [9, 9, 9, 9];

fn credentials(mutual: bool, allow_md5: bool) -> Credentials {
    Credentials {
        name: "node".into(),
        secret: Secret::new(SECRET.to_vec()),
        target: mutual.then(|| (Some("target".into()), Secret::new(TARGET_SECRET.to_vec()))),
        allow_md5,
    }
}

fn begin(credentials: Option<&Credentials>, digests: DigestPolicy) -> (Login, u8, Vec<u8>) {
    Login::new(Goal {
        initiator: "iqn.a",
        target: Some("iqn.b"),
        credentials,
        digests,
        challenge: OURS.to_vec(),
        tried: &[],
    })
}

fn say(login: &mut Login, flags: u8, text: &str) -> Step {
    login.answer(&Header::new(0x23, flags), text.replace(' ', "\0").as_bytes())
}

fn sent(step: Step) -> (u8, String) {
    let Step::Send(flags, text) = step else { panic!("{step:?}") };
    (flags, String::from_utf8(text).unwrap().replace('\0', " "))
}

#[test]
fn a_login_without_authentication() {
    let (mut login, flags, first) = begin(None, DigestPolicy::Preferred);
    assert_eq!(flags, 0x81, "security stage, on to the operational one");
    let first = String::from_utf8(first).unwrap();
    assert_eq!(first, "InitiatorName=iqn.a\0SessionType=Normal\0TargetName=iqn.b\0AuthMethod=None\0");
    let (flags, offer) = sent(say(&mut login, 0x81, "AuthMethod=None TargetPortalGroupTag=7 TargetAlias=x "));
    assert_eq!(flags, 0x87);
    assert_eq!(
        offer,
        "HeaderDigest=CRC32C,None DataDigest=CRC32C,None MaxRecvDataSegmentLength=262144 \
         DefaultTime2Wait=0 DefaultTime2Retain=0 ErrorRecoveryLevel=0 MaxConnections=1 InitialR2T=No \
         ImmediateData=Yes MaxBurstLength=1048576 FirstBurstLength=65536 MaxOutstandingR2T=1 \
         DataPDUInOrder=Yes DataSequenceInOrder=Yes "
    );
    let answer = "HeaderDigest=CRC32C DataDigest=None InitialR2T=Yes ImmediateData=No \
                  MaxBurstLength=0x4000 FirstBurstLength=65536 MaxRecvDataSegmentLength=4096 \
                  DefaultTime2Wait=2 MaxConnections=1 DataPDUInOrder=Yes X-odd=1 ";
    assert_eq!(sent(say(&mut login, 0x04, answer)), (0x87, "X-odd=NotUnderstood ".into()));
    assert_eq!(say(&mut login, 0x87, ""), Step::Done);
    let expected = Negotiated {
        header_digest: Digest::Crc32c,
        immediate_data: false,
        max_burst: 0x4000,
        first_burst: 0x4000,
        send_segment: 4_096,
        time_to_wait_s: 2,
        portal_group: Some(7),
        alias: Some("x".into()),
        ..Negotiated::default()
    };
    assert_eq!(login.negotiated, expected);
    assert!(expected.report().contains(&("TargetAlias", "x".into())));
}

#[test]
fn chap_with_every_algorithm() {
    for (code, algorithm) in
        [("8", Algorithm::Sha3), ("7", Algorithm::Sha2), ("6", Algorithm::Sha1), ("5", Algorithm::Md5)]
    {
        let secret = credentials(true, true);
        let (mut login, flags, first) = begin(Some(&secret), DigestPolicy::Preferred);
        assert!(flags == 0 && first.ends_with(b"AuthMethod=CHAP\0"));
        assert_eq!(sent(say(&mut login, 0, "AuthMethod=CHAP ")), (0, "CHAP_A=8,7,6,5 ".into()));
        let question = format!("CHAP_A={code} CHAP_I=42 CHAP_C=0x010203 ");
        let (flags, answer) = sent(say(&mut login, 0, &question));
        let response = encode(&algorithm.respond(42, &secret.secret, &[1, 2, 3]));
        assert_eq!(
            (flags, answer),
            (0x81, format!("CHAP_N=node CHAP_R={response} CHAP_I=43 CHAP_C=0x09090909 "))
        );
        let proof = encode(&algorithm.respond(43, &Secret::new(TARGET_SECRET.to_vec()), &OURS));
        let (flags, _) = sent(say(&mut login, 0x81, &format!("CHAP_N=target CHAP_R={proof} ")));
        assert_eq!(flags, 0x87);
        assert_eq!(login.negotiated.authentication, format!("mutual CHAP {}", algorithm.name()));
    }
}

#[test]
fn a_target_that_does_not_prove_itself_is_refused() {
    let question = "CHAP_A=7 CHAP_I=1 CHAP_C=0x01 ";
    let proof = |name: &str, secret: &[u8], challenge: &[u8]| {
        let response = Algorithm::Sha2.respond(2, &Secret::new(secret.to_vec()), challenge);
        format!("CHAP_N={name} CHAP_R={} ", encode(&response))
    };
    for last in [
        String::new(),
        proof("target", SECRET, &OURS),
        proof("target", TARGET_SECRET, &[1]),
        proof("other", TARGET_SECRET, &OURS),
        "CHAP_N=target CHAP_R=0xzz ".into(),
    ] {
        let secret = credentials(true, false);
        let (mut login, ..) = begin(Some(&secret), DigestPolicy::Preferred);
        say(&mut login, 0, "AuthMethod=CHAP ");
        say(&mut login, 0, question);
        let step = say(&mut login, 0x81, &last);
        assert_eq!(step, Step::Refused("login refused: the target did not prove who it is"), "{last}");
    }
}

#[test]
fn weaker_methods_are_not_forced_on_us() {
    let start = |mutual, weak| {
        let secret = credentials(mutual, weak);
        begin(Some(&secret), DigestPolicy::Preferred).0
    };
    assert!(matches!(say(&mut start(true, true), 0x81, "AuthMethod=None "), Step::Refused(_)));
    assert!(matches!(say(&mut start(true, true), 0x81, ""), Step::Refused(_)));
    assert!(matches!(say(&mut start(false, true), 0, "AuthMethod=SRP "), Step::Refused(_)));
    // One-way: a target may go without.
    let mut login = start(false, true);
    assert_eq!(sent(say(&mut login, 0, "AuthMethod=None ")), (0x81, String::new()));
    let mut login = start(false, false);
    assert_eq!(sent(say(&mut login, 0, "AuthMethod=CHAP ")).1, "CHAP_A=8,7,6 ");
    let md5 = say(&mut login, 0, "CHAP_A=5 CHAP_I=1 CHAP_C=0x01 ");
    assert_eq!(md5, Step::Refused("login refused: no CHAP algorithm that both accept"));
    // Moving on before all has been said.
    let mut login = start(false, true);
    assert!(matches!(say(&mut login, 0x81, "AuthMethod=CHAP "), Step::Fault(_)));
    // Our own challenge, and one secret for both directions.
    let mut login = start(true, false);
    say(&mut login, 0, "AuthMethod=CHAP ");
    let step = say(&mut login, 0, "CHAP_A=7 CHAP_I=1 CHAP_C=0x09090909 ");
    assert_eq!(step, Step::Refused("the target sends our own challenge back"));
    let mut same = credentials(true, false);
    same.target = Some((None, same.secret.clone()));
    let (mut login, ..) = begin(Some(&same), DigestPolicy::Preferred);
    say(&mut login, 0, "AuthMethod=CHAP ");
    let step = say(&mut login, 0, "CHAP_A=7 CHAP_I=1 CHAP_C=0x01 ");
    assert_eq!(step, Step::Refused("the secrets of both directions are the same"));
    for bad in ["CHAP_A=7 CHAP_I=256 CHAP_C=0x01 ", "CHAP_A=7 CHAP_C=0x01 ", "CHAP_A=7 CHAP_I=1 "] {
        let mut login = start(true, false);
        say(&mut login, 0, "AuthMethod=CHAP ");
        assert!(matches!(say(&mut login, 0, bad), Step::Fault(_)), "{bad}");
    }
}

#[test]
fn text_in_pieces_and_digests_that_must_be() {
    let (mut login, ..) = begin(None, DigestPolicy::Required);
    assert_eq!(say(&mut login, 0x40, "AuthMeth"), Step::Send(0, vec![]));
    let (_, offer) = sent(say(&mut login, 0x81, "od=None "));
    assert!(offer.starts_with("HeaderDigest=CRC32C DataDigest=CRC32C "));
    assert_eq!(say(&mut login, 0x44, "HeaderDigest=CR"), Step::Send(4, vec![]));
    let step = say(&mut login, 0x87, "C32C DataDigest=None ");
    assert_eq!(step, Step::Refused("login refused: the target has no digests"));
    let (mut login, ..) = begin(None, DigestPolicy::Off);
    assert!(matches!(say(&mut login, 0xc1, "AuthMethod=None "), Step::Fault(_)), "moves on amid text");
    let (mut login, ..) = begin(None, DigestPolicy::Off);
    for _ in 0..ISCSI_LOGIN_STEPS_MAX {
        assert!(matches!(say(&mut login, 0x40, "A"), Step::Send(..)));
    }
    assert_eq!(say(&mut login, 0x40, "A"), Step::Fault("the login does not end"));
    for bad in ["DataPDUInOrder=No ", "ErrorRecoveryLevel=1 ", "MaxRecvDataSegmentLength=1 ", "InitialR2T=1 "]
    {
        let (mut login, ..) = begin(None, DigestPolicy::Off);
        say(&mut login, 0x81, "AuthMethod=None ");
        assert!(matches!(say(&mut login, 0x87, bad), Step::Fault(_)), "{bad}");
    }
}

#[test]
fn status_and_redirection() {
    let (mut login, ..) = begin(None, DigestPolicy::Off);
    let mut header = Header::new(0x23, 0x81);
    header.set(36, &[1, 1]);
    let step = login.answer(&header, b"TargetAddress=10.1.2.3:3261,1\0");
    assert_eq!(step, Step::Redirect(Portal { address: [10, 1, 2, 3].into(), port: 3_261 }));
    header.set(36, &[2, 1]);
    let (mut login, ..) = begin(None, DigestPolicy::Off);
    assert_eq!(login.answer(&header, &[]), Step::Refused("login refused: authentication failed"));
}
