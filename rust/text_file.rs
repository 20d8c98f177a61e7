//! Opens text files, whether plain or compressed with gzip or Zstandard, and counts the bytes read. The first bytes of
//! the file decide on the compression, not its name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::GzDecoder;

use crate::error::{AtPath, Result};

/// How files of other compressions and encodings start.
const OTHERS: [(&[u8], &str); 5] = [
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\xfe\xff", "text in UTF-16"),
];

/// A text file, decompressed while it is read.
pub struct TextFile {
    text: Box<dyn BufRead + Send + Sync>,
    is_compressed: bool,
    bytes_read: Arc<AtomicU64>,
}

impl TextFile {
    /// # Errors
    ///
    /// [`crate::Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let bytes_read = Arc::new(AtomicU64::new(0));
        let file = Counted { file: File::open(path).at(path)?, bytes_read: bytes_read.clone() };
        let mut file = BufReader::with_capacity(1 << 16, file);
        let (text, is_compressed): (Box<dyn BufRead + Send + Sync>, bool) = match file.fill_buf().at(path)? {
            [0x1f, 0x8b, ..] => (Box::new(BufReader::with_capacity(1 << 18, Gzip::new(file))), true),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                (Box::new(BufReader::with_capacity(1 << 18, zstd::Decoder::with_buffer(file).at(path)?)), true)
            }
            start => {
                if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| start.starts_with(magic)) {
                    let message =
                        format!("this is {name}: give text in UTF-8, plain or compressed with gzip or Zstandard");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, message)).at(path);
                }
                (Box::new(file), false)
            }
        };
        Ok(Self { text, is_compressed, bytes_read })
    }

    pub fn is_compressed(&self) -> bool {
        self.is_compressed
    }

    /// Returns the number of bytes read so far from the file on disk, before decompression.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
}

impl Read for TextFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.text.read(buffer)
    }
}

impl BufRead for TextFile {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.text.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.text.consume(bytes);
    }
}

/// The members of a gzip file, in order. As in gzip(1), zeros after the last member are padding (from tapes or `tar`).
struct Gzip<R> {
    /// `None` at the end of the file.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Gzip<R> {
    fn new(file: R) -> Self {
        Self { member: Some(GzDecoder::new(file)) }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let mut file = self.member.take().expect("it was there").into_inner();
            self.member = has_more(&mut file)?.then(|| GzDecoder::new(file));
        }
        Ok(0)
    }
}

/// Returns whether anything other than zeros follows.
fn has_more(file: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let text = file.fill_buf()?;
        let zeros = text.iter().take_while(|&&byte| byte == 0).count();
        match (text.len(), zeros) {
            (0, _) => return Ok(false),
            (length, zeros) if zeros < length => return Ok(true),
            _ => file.consume(zeros),
        }
    }
}

struct Counted {
    file: File,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
