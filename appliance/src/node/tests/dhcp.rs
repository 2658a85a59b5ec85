//! A DHCP server that knows one address of each network.
//!
//! Spec: RFC 2131, section 2; RFC 2132.

use alloc::vec;
use alloc::vec::Vec;

/// Answers DISCOVER with OFFER and REQUEST with ACK: the network's first address.
pub(super) fn answer(request: &[u8], network: u8) -> Option<Vec<u8>> {
    if request.get(12..14)? != [8, 0] || request.get(23)? != &17 || request.get(36..38)? != [0, 67] {
        return None;
    }
    let dhcp = request.get(42..)?;
    let kind = dhcp.get(240..)?.windows(3).find(|option| option[0] == 53 && option[1] == 1)?[2];
    let server = [10, 0, network, 254];
    let mut answer = vec![0u8; 240];
    answer[..4].copy_from_slice(&[2, 1, 6, 0]);
    answer[4..8].copy_from_slice(&dhcp[4..8]);
    answer[16..20].copy_from_slice(&[10, 0, network, 1]);
    answer[20..24].copy_from_slice(&server);
    answer[28..44].copy_from_slice(&dhcp[28..44]);
    answer[236..240].copy_from_slice(&[99, 130, 83, 99]);
    answer.extend_from_slice(&[53, 1, if kind == 1 { 2 } else { 5 }, 54, 4]);
    answer.extend_from_slice(&server);
    answer.extend_from_slice(&[51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0, 255]);
    let total = u16::try_from(28 + answer.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend_from_slice(&server);
    packet.extend_from_slice(&[255; 4]);
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(&[0, 67, 0, 68]);
    packet.extend_from_slice(&(total - 20).to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(&answer);
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 0xfe, 8, 0]);
    frame.extend_from_slice(&packet);
    Some(frame)
}
