//! Joins the programs into one file that boot loaders take for a Linux kernel.
//!
//! Spec: `hv_abi::image` for the layout; Linux documentation
//! `arch/x86/boot.rst` for the header.

use anyhow::{Context, Result, anyhow, bail, ensure};
use hv_abi::image::{
    DIRECTORY_OFFSET, Directory, Image, MAGIC, MAX_FILE_BYTES, MAX_PARTS, PART_ALIGN, PART_DOM0,
    PART_HYPERVISOR, PART_MANIFEST, PART_SETUP, PART_SIGNATURE, Part, SETUP_BYTES,
};
use object::{Object, ObjectSection, ObjectSegment};
use sha2::{Digest, Sha256};
use zerocopy::IntoBytes;

/// Where the ring-0 program is linked.
const HYPERVISOR_BASE: u64 = 0xffff_ffff_8000_0000;
/// Offset of `syssize`, in units of 16 bytes.
const SYSSIZE: usize = 0x1f4;

/// Bytes and memory size of a part.
struct Body {
    kind: u32,
    bytes: Vec<u8>,
    memory_length: u64,
}

/// What a file is composed of, apart from what the owner adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Real-mode code and boot header.
    pub setup: Vec<u8>,
    /// Start-up stub, at most a page.
    pub stub: Vec<u8>,
    /// The hypervisor as a flat image.
    pub hypervisor: Vec<u8>,
    /// Bytes of it in memory.
    pub hypervisor_memory_length: u64,
    /// dom0 as an ELF file.
    pub dom0: Vec<u8>,
}

impl Pieces {
    /// Takes the two programs apart.
    ///
    /// # Errors
    /// When a program does not have the expected shape.
    pub fn from_programs(hypervisor: &[u8], dom0: &[u8]) -> Result<Self> {
        let elf = object::File::parse(hypervisor).context("the hypervisor is not an ELF file")?;
        let (flat, memory_length) = flatten(&elf)?;
        Ok(Self {
            setup: section(&elf, ".setup16")?,
            stub: section(&elf, ".stub")?,
            hypervisor: flat,
            hypervisor_memory_length: memory_length,
            dom0: dom0.to_vec(),
        })
    }

    /// Takes an image apart. What the owner added is left out.
    ///
    /// # Errors
    /// When it is no image or has parts this program does not know.
    pub fn from_image(file: &[u8]) -> Result<Self> {
        let payload = file.get(SETUP_BYTES..).context("the file is too short for an image")?;
        let image = Image::parse(payload).map_err(|error| anyhow!("not an intact image: {error:?}"))?;
        let known = [PART_HYPERVISOR, PART_DOM0, PART_SETUP, PART_MANIFEST, PART_SIGNATURE];
        for part in image.parts() {
            ensure!(
                known.contains(&part.kind),
                "part {} is of an unknown kind: use a newer version",
                part.kind
            );
        }
        let part = |kind| image.part(kind).map_err(|_| anyhow!("the image has no part {kind}"));
        let (hypervisor, flat) = part(PART_HYPERVISOR)?;
        let stub = payload.get(..DIRECTORY_OFFSET).context("the file is too short for an image")?;
        Ok(Self {
            setup: part(PART_SETUP)?.1.to_vec(),
            stub: stub.to_vec(),
            hypervisor: flat.to_vec(),
            hypervisor_memory_length: hypervisor.memory_length,
            dom0: part(PART_DOM0)?.1.to_vec(),
        })
    }
}

/// Composes a file from its pieces and further parts, in order.
///
/// # Errors
/// When a piece does not have the expected shape or the file grows too large.
pub fn compose(pieces: &Pieces, more: &[(u32, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut setup = pieces.setup.clone();
    ensure!(setup.len() == SETUP_BYTES, "setup code has {} bytes", setup.len());
    ensure!(pieces.stub.len() <= DIRECTORY_OFFSET, "start-up stub has {} bytes", pieces.stub.len());
    let mut stub = pieces.stub.clone();
    stub.resize(DIRECTORY_OFFSET, 0);
    let hypervisor = Body {
        kind: PART_HYPERVISOR,
        bytes: pieces.hypervisor.clone(),
        memory_length: pieces.hypervisor_memory_length,
    };
    let dom0 = &pieces.dom0;
    let mut bodies = vec![
        hypervisor,
        Body { kind: PART_DOM0, bytes: dom0.clone(), memory_length: dom0.len() as u64 },
        Body { kind: PART_SETUP, bytes: Vec::new(), memory_length: SETUP_BYTES as u64 },
    ];
    for (kind, bytes) in more {
        bodies.push(Body { kind: *kind, bytes: bytes.clone(), memory_length: bytes.len() as u64 });
    }
    ensure!(bodies.len() <= MAX_PARTS, "{} parts", bodies.len());

    // The header holds the payload's size, and the payload a copy of the header:
    // sizes first.
    let mut length = DIRECTORY_OFFSET + PART_ALIGN;
    for body in &bodies {
        let bytes = if body.kind == PART_SETUP { SETUP_BYTES } else { body.bytes.len() };
        length = (length + bytes).next_multiple_of(PART_ALIGN);
    }
    ensure!(length + SETUP_BYTES <= MAX_FILE_BYTES, "the file would have {length} bytes");
    let paragraphs = u32::try_from(length / 16)?;
    setup.get_mut(SYSSIZE..SYSSIZE + 4).context("no header")?.copy_from_slice(&paragraphs.to_le_bytes());
    if let Some(body) = bodies.iter_mut().find(|body| body.kind == PART_SETUP) {
        body.bytes.clone_from(&setup);
    }

    let mut file = setup;
    file.extend_from_slice(&stub);
    file.extend_from_slice(directory(&bodies, length)?.as_bytes());
    for body in &bodies {
        let at = (file.len() - SETUP_BYTES).next_multiple_of(PART_ALIGN) + SETUP_BYTES;
        file.resize(at, 0);
        file.extend_from_slice(&body.bytes);
    }
    file.resize(SETUP_BYTES + length, 0);
    Ok(file)
}

fn directory(bodies: &[Body], length: usize) -> Result<Directory> {
    let mut directory =
        Directory { magic: MAGIC, payload_length: length as u64, parts: [Part::default(); MAX_PARTS] };
    let mut offset = DIRECTORY_OFFSET + PART_ALIGN;
    for (part, body) in directory.parts.iter_mut().zip(bodies) {
        *part = Part {
            kind: body.kind,
            reserved: 0,
            offset: offset as u64,
            length: body.bytes.len() as u64,
            memory_length: body.memory_length,
            sha256: if body.kind == PART_SIGNATURE { [0; 32] } else { Sha256::digest(&body.bytes).into() },
        };
        offset = (offset + body.bytes.len()).next_multiple_of(PART_ALIGN);
    }
    Ok(directory)
}

fn section(elf: &object::File<'_>, name: &str) -> Result<Vec<u8>> {
    let section =
        elf.section_by_name(name).with_context(|| format!("the hypervisor has no section {name}"))?;
    Ok(section.data()?.to_vec())
}

/// The loadable segments in the top 2 GiB as one flat image, and its size with
/// zero-filled data.
fn flatten(elf: &object::File<'_>) -> Result<(Vec<u8>, u64)> {
    let mut flat = Vec::new();
    let mut end = 0;
    for segment in elf.segments().filter(|segment| segment.address() >= HYPERVISOR_BASE) {
        let offset = segment.address() - HYPERVISOR_BASE;
        let data = segment.data()?;
        let start = usize::try_from(offset)?;
        if flat.len() < start + data.len() {
            flat.resize(start + data.len(), 0);
        }
        flat.get_mut(start..start + data.len()).context("segment out of range")?.copy_from_slice(data);
        end = end.max(offset + segment.size());
    }
    if flat.is_empty() {
        bail!("the hypervisor has no code in the top 2 GiB");
    }
    Ok((flat, end))
}
