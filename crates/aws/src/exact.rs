//! Bodies of exactly as many bytes as were asked for.

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, try_unfold};
use image_tasks_domain::{Failure, FailureCode};
use image_tasks_flows::ports::Body;

/// `stream` as a body that fails where it isn't `len` bytes long. `what` names it in failures.
pub(crate) fn exact(stream: BoxStream<'static, Result<Bytes, Failure>>, len: u64, what: String) -> Body {
    Box::pin(try_unfold((stream, 0u64), move |(mut stream, before)| {
        let what = what.clone();
        async move {
            match stream.next().await.transpose()? {
                None if before == len => Ok(None),
                None => Err(Failure::transient(format!("{what} broke off after {before} of {len} bytes"))),
                Some(chunk) => {
                    let got = before.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
                    if got > len {
                        let message = format!("{what} sent more than the {len} bytes asked for");
                        return Err(Failure::new(FailureCode::SourceInvalid, message));
                    }
                    Ok(Some((chunk, (stream, got))))
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use futures::{TryStreamExt, stream};

    use super::*;

    async fn read(chunks: &[&'static str], len: u64) -> Result<Vec<u8>, Failure> {
        let chunks: Vec<_> = chunks.iter().map(|c| Ok(Bytes::from_static(c.as_bytes()))).collect();
        let body = exact(stream::iter(chunks).boxed(), len, "http://a.example/x".into());
        body.try_fold(Vec::new(), async |mut all, chunk| {
            all.extend_from_slice(&chunk);
            Ok(all)
        })
        .await
    }

    #[tokio::test]
    async fn too_few_and_too_many_bytes_are_failures() {
        assert_eq!(read(&["ab", "", "c"], 3).await.unwrap(), b"abc");
        assert_eq!(read(&[], 0).await.unwrap(), b"");
        let short = read(&["ab"], 3).await.unwrap_err();
        assert_eq!(short.to_string(), "Transient: http://a.example/x broke off after 2 of 3 bytes");
        let long = read(&["ab", "cd"], 3).await.unwrap_err();
        assert_eq!(long.code, FailureCode::SourceInvalid);
    }
}
