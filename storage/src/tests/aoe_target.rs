//! An AoE target: a disk that answers frames.

use std::vec;
use std::vec::Vec;

use super::SECTORS;
use crate::aoe::wire::{Ata, Body, Config, Frame, Mask, Reserve, ata};
use crate::aoe::{MacAddress, TargetAddress};

pub(super) const AOE: TargetAddress = TargetAddress { shelf: 11, slot: 1 };

pub(super) struct AoeTarget {
    pub(super) macs: Vec<MacAddress>,
    pub(super) disk: Vec<u8>,
    /// What a flush has persisted.
    pub(super) durable: Vec<u8>,
    pub(super) up: bool,
    pub(super) sectors_max: u8,
    pub(super) buffers: u16,
    pub(super) serial: u8,
    /// Commands that touch these sectors fail.
    pub(super) bad: std::ops::Range<u64>,
    pub(super) config: Vec<u8>,
    pub(super) masks: Vec<MacAddress>,
    pub(super) holders: Vec<MacAddress>,
    pub(super) plain_flush_only: bool,
}

impl AoeTarget {
    pub(super) fn new(macs: &[MacAddress], serial: u8) -> Self {
        Self {
            macs: macs.to_vec(),
            disk: vec![0; SECTORS as usize * 512],
            durable: vec![0; SECTORS as usize * 512],
            up: true,
            sectors_max: 2,
            buffers: 8,
            serial,
            bad: 0..0,
            config: Vec::new(),
            masks: Vec::new(),
            holders: Vec::new(),
            plain_flush_only: false,
        }
    }

    fn identity(&self) -> [u8; 512] {
        let mut identity = [0u8; 512];
        identity[20] = self.serial;
        identity[167] = 4;
        identity[200] = SECTORS as u8;
        identity
    }

    /// The reply to a frame, if any.
    pub(super) fn answer(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let frame = Frame::parse(bytes).filter(|frame| self.up && !frame.response && frame.target == AOE)?;
        let broadcast = frame.destination == [0xff; 6];
        let mac = self.macs.iter().find(|mac| broadcast || **mac == frame.destination).copied()?;
        if !self.masks.is_empty() && !self.masks.contains(&frame.source) {
            return None;
        }
        let identity = self.identity();
        let mut error = None;
        let mut held = Vec::new();
        let config = self.config.clone();
        let body = match frame.body {
            Body::Config(asked) => Body::Config(Config {
                buffers: self.buffers,
                firmware: 1,
                sectors_max: self.sectors_max,
                command: asked.command,
                string: self.configure(&asked, &config, &mut error)?,
            }),
            Body::Ata(request) if self.is_held(frame.source) => {
                error = Some(crate::aoe::wire::AoeError::Reserved);
                Body::Ata(Ata { data: &[], ..request })
            }
            Body::Ata(request) => {
                let (status, feature, data) = self.ata(&request, &identity, &mut held)?;
                Body::Ata(Ata { command: status, feature, data, ..request })
            }
            Body::Mask(asked) => {
                for [_, what, mac @ ..] in asked.directives {
                    self.masks.retain(|it| it != mac);
                    if *what == 1 {
                        self.masks.push(*mac);
                    }
                }
                held.extend(self.masks.iter().flat_map(|[a, b, c, d, e, f]| [0, 1, *a, *b, *c, *d, *e, *f]));
                Body::Mask(Mask { command: asked.command, error: 0, directives: held.as_chunks().0 })
            }
            Body::Reserve(asked) => {
                if asked.command == 1 && self.is_held(frame.source) {
                    error = Some(crate::aoe::wire::AoeError::Reserved);
                } else if asked.command > 0 {
                    self.holders = asked.macs.to_vec();
                }
                held.extend(self.holders.iter().flatten());
                Body::Reserve(Reserve { command: asked.command, macs: held.as_chunks().0 })
            }
            Body::Other(_) => return None,
        };
        let reply = Frame { destination: frame.source, source: mac, response: true, error, body, ..frame };
        let mut bytes = vec![0; 9_100];
        let length = reply.emit(&mut bytes)?;
        bytes.truncate(length);
        Some(bytes)
    }

    fn is_held(&self, mac: MacAddress) -> bool {
        !self.holders.is_empty() && !self.holders.contains(&mac)
    }

    fn configure<'a>(
        &mut self,
        asked: &Config<'a>,
        own: &'a [u8],
        error: &mut Option<crate::aoe::wire::AoeError>,
    ) -> Option<&'a [u8]> {
        match asked.command {
            1 if asked.string != own => return None,
            2 if !own.starts_with(asked.string) => return None,
            3 if !own.is_empty() && own != asked.string => {
                *error = Some(crate::aoe::wire::AoeError::ConfigPresent);
            }
            3 | 4 => {
                self.config = asked.string.to_vec();
                return Some(asked.string);
            }
            _ => {}
        }
        Some(own)
    }

    /// Status, error register and data; None for a frame that is too short.
    fn ata<'a>(
        &mut self,
        request: &Ata<'_>,
        identity: &'a [u8],
        held: &'a mut Vec<u8>,
    ) -> Option<(u8, u8, &'a [u8])> {
        const GOOD: u8 = 0x40;
        let (from, to) =
            (request.lba as usize * 512, (request.lba as usize + usize::from(request.sectors)) * 512);
        let end = request.lba + u64::from(request.sectors);
        let moves = matches!(request.command, ata::READ_EXT | ata::WRITE_EXT);
        if moves && to > self.disk.len() {
            return Some((0x41, ata::ERROR_NOT_FOUND, &[]));
        }
        if moves && self.bad.start < end && request.lba < self.bad.end {
            return Some((0x41, 0x40 >> 1, &[]));
        }
        match request.command {
            ata::IDENTIFY => Some((GOOD, 0, identity)),
            ata::READ_EXT => {
                held.extend_from_slice(&self.disk[from..to]);
                Some((GOOD, 0, held))
            }
            ata::WRITE_EXT => {
                self.disk[from..to].copy_from_slice(request.data.get(..to - from)?);
                Some((GOOD, 0, &[]))
            }
            ata::FLUSH_EXT if self.plain_flush_only => Some((0x41, ata::ERROR_ABORTED, &[])),
            ata::FLUSH_EXT | ata::FLUSH => {
                self.durable.clone_from(&self.disk);
                Some((GOOD, 0, &[]))
            }
            other => panic!("command {other:#x}"),
        }
    }
}
