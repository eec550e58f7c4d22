//! CRC64NVME as S3 writes it: the 8 bytes, most significant first, in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image_tasks_flows::ports::{ObjectError, ObjectResult};

pub(super) fn encode(crc: u64) -> String {
    STANDARD.encode(crc.to_be_bytes())
}

pub(super) fn decode(text: &str) -> Option<u64> {
    STANDARD.decode(text).ok()?.try_into().ok().map(u64::from_be_bytes)
}

/// The checksum that S3 must have answered with.
pub(super) fn required(text: Option<&str>, what: &str) -> ObjectResult<u64> {
    text.and_then(decode)
        .ok_or_else(|| ObjectError::Fault(format!("{what}: S3 answered without CRC64NVME").into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue_is_written_as_s3_writes_it() {
        // CRC RevEng catalogue, CRC-64/NVME: check value of "123456789".
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, b"123456789");
        assert_eq!(crc, 0xae8b_1486_0a79_9888);
        assert_eq!(encode(crc), "rosUhgp5mIg=");
        assert_eq!(decode("rosUhgp5mIg="), Some(crc));
        for bad in ["", "rosUhgp5mIg", "AAAA", "rosUhgp5mIg=-2"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
