//! Bytes as text inside a page: raw deflate (RFC 1951), then base64 (RFC 4648). A browser undoes it with `atob` and `DecompressionStream`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compress, Compression, FlushCompress, Status};
use serde::Serialize;

/// Bytes of a value's JSON after which a block is closed: small enough to unpack at once, large enough to compress well.
pub(super) const BLOCK: usize = 256 << 10;

/// A value as JSON, packed. Base64 has no `<`, so that it cannot end the element that it stands in.
pub(super) fn json(value: &impl Serialize) -> String {
    packed(&serde_json::to_vec(value).expect("plain data with string keys"))
}

/// Bytes, packed.
pub(super) fn packed(bytes: &[u8]) -> String {
    base64(&deflated(bytes))
}

/// Bytes in base64.
pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut state = Compress::new(Compression::new(6), false);
    let mut out = Vec::with_capacity(bytes.len() / 3 + 64);
    loop {
        let rest = &bytes[state.total_in() as usize..];
        match state.compress_vec(rest, &mut out, FlushCompress::Finish).expect("compressing memory has no error") {
            Status::StreamEnd => return out,
            Status::Ok | Status::BufError => out.reserve(out.len() / 2 + 64),
        }
    }
}

/// Items in blocks of about [`BLOCK`] bytes, each a JSON array, packed; and the number of the first item of each block.
pub(super) fn blocks<T: Serialize>(items: impl IntoIterator<Item = T>) -> (Vec<usize>, Vec<String>) {
    let (mut starts, mut blocks, mut open) = (Vec::new(), Vec::new(), Vec::new());
    for (number, item) in items.into_iter().enumerate() {
        if open.is_empty() {
            starts.push(number);
        }
        open.push(if open.is_empty() { b'[' } else { b',' });
        serde_json::to_writer(&mut open, &item).expect("plain data with string keys");
        if open.len() >= BLOCK {
            open.push(b']');
            blocks.push(packed(&open));
            open.clear();
        }
    }
    if !open.is_empty() {
        open.push(b']');
        blocks.push(packed(&open));
    }
    (starts, blocks)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use flate2::read::DeflateDecoder;
    use std::io::Read;

    pub(in crate::report::html) fn unpacked(text: &str) -> Vec<u8> {
        let compressed = STANDARD.decode(text).expect("base64");
        let mut bytes = Vec::new();
        DeflateDecoder::new(compressed.as_slice()).read_to_end(&mut bytes).expect("deflate");
        bytes
    }

    #[test]
    fn packing_keeps_every_byte() {
        let noise: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        for bytes in [&b""[..], b"a", "日本語".repeat(1000).as_bytes(), &noise] {
            assert_eq!(unpacked(&packed(bytes)), bytes);
        }
    }

    #[test]
    fn blocks_hold_every_item_once() {
        let items: Vec<String> = (0..3000).map(|i| format!("{i} {}", "x".repeat(200))).collect();
        let (starts, blocks) = blocks(&items);
        assert_eq!((starts[0], starts.len()), (0, blocks.len()));
        assert!(blocks.len() > 2);
        let mut back: Vec<String> = Vec::new();
        for (start, block) in starts.iter().zip(&blocks) {
            assert_eq!(*start, back.len());
            back.extend(serde_json::from_slice::<Vec<String>>(&unpacked(block)).expect("JSON"));
        }
        assert_eq!(back, items);
        assert_eq!(super::blocks(Vec::<u8>::new()), (vec![], vec![]));
    }
}
