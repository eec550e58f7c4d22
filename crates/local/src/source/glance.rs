//! The part of a Glance that gives images away: a record and its bytes, to whoever has the token.

use super::{Content, EntityTag, RangeSupport, Source, SourceServer};

impl SourceServer {
    /// Serves an image: `record` at `/v2/images/{id}`, `file` below it, both to those who send `token`. Its URL, as a
    /// clone names it.
    pub fn serve_image(&self, id: &str, record: String, file: Source, token: &str) -> String {
        let path = format!("/v2/images/{id}");
        // As Glance does: it has an ETag for nothing.
        let guarded =
            |source: Source| Source { etag: EntityTag::None, token: Some(token.to_owned()), ..source };
        self.serve(&format!("{path}/file"), guarded(file));
        let record = Source::new(Content::Bytes(record.into()));
        self.serve(&path, guarded(Source { ranges: RangeSupport::Ignored, ..record }))
    }
}
