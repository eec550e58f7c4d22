//! The first images of a list, whatever order they are found in.
//!
//! Invariants:
//! - What is kept is bounded, however many images pass and however large they are.
//! - A page is never empty if an image was found: clients stop at an empty one.

use crate::image::Image;
use crate::images::ImageSearch;
use crate::ports::ImagePage;

/// Most bytes of a page's images, but for one. An answer holds 6 MB (AWS Lambda developer guide, "Lambda quotas"), so more
/// is of no use to anybody.
const MAX_BYTES: usize = 5 << 20;

/// What becomes of an image that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It is on the page, as far as one knows.
    Kept,
    /// It isn't in the list, or on an earlier page, or on this one already.
    Passed,
    /// It is on a later page, and so is all that comes after it in the order.
    Later,
}

/// A page while it is made.
#[derive(Debug)]
pub struct Page<'a> {
    search: &'a ImageSearch,
    limit: usize,
    kept: Vec<(usize, Image)>,
    bytes: usize,
    more: bool,
}

impl<'a> Page<'a> {
    /// An empty page.
    pub fn new(search: &'a ImageSearch) -> Self {
        Self { search, limit: search.listing.limit, kept: Vec::new(), bytes: 0, more: false }
    }

    /// Keeps an image at its place, as long as it is among the first.
    pub fn offer(&mut self, image: Image) -> Offer {
        if !self.search.holds(&image) {
            return Offer::Passed;
        }
        let place = self.kept.partition_point(|(_, kept)| self.search.order(kept, &image).is_lt());
        if self.kept.get(place).is_some_and(|(_, kept)| kept.id == image.id) {
            return Offer::Passed;
        }
        let size = bytes_of(&image);
        self.bytes = self.bytes.saturating_add(size);
        self.kept.insert(place, (size, image));
        while self.kept.len() > self.limit || (self.bytes > MAX_BYTES && self.kept.len() > 1) {
            let Some((size, _)) = self.kept.pop() else { break };
            self.bytes = self.bytes.saturating_sub(size);
            self.more = true;
        }
        if place < self.kept.len() { Offer::Kept } else { Offer::Later }
    }

    /// The page, once every image of the list was offered, or none is left that could be on it.
    pub fn finish(self) -> ImagePage {
        ImagePage { images: self.kept.into_iter().map(|(_, image)| image).collect(), more: self.more }
    }
}

/// Bytes that an image takes, roughly.
fn bytes_of(image: &Image) -> usize {
    const ATTRIBUTES: usize = 1000;
    let own = image.properties.iter().flat_map(|(name, value)| [name, value]).chain(&image.tags);
    let members = image.members.keys().map(|project| project.len() + 100);
    ATTRIBUTES + own.map(String::len).sum::<usize>() + members.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::caller::Caller;
    use crate::image::ImageId;
    use crate::images::Listing;
    use crate::time::Timestamp;

    fn search(limit: usize) -> ImageSearch {
        let caller = Caller { user: "a".into(), project: "demo".into(), roles: vec!["member".into()] };
        ImageSearch { caller, listing: Listing { limit, ..Listing::default() }, after: None }
    }

    fn image(second: i64) -> Image {
        let id = ImageId(Uuid::from_u128(u128::try_from(second).unwrap()));
        Image::queued(id, "demo", Timestamp::from_epoch(second))
    }

    fn seconds(page: &ImagePage) -> Vec<i64> {
        page.images.iter().map(|image| image.created_at.epoch()).collect()
    }

    #[test]
    fn the_first_are_kept_whatever_order_they_come_in() {
        for order in [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [3, 1, 5, 2, 4]] {
            let search = search(3);
            let mut page = Page::new(&search);
            for second in order.into_iter().chain([4]) {
                page.offer(image(second));
            }
            let page = page.finish();
            assert_eq!((seconds(&page), page.more), (vec![5, 4, 3], true), "{order:?}");
        }
        let search = search(5);
        let mut page = Page::new(&search);
        assert_eq!(page.offer(image(1)), Offer::Kept);
        assert_eq!(page.offer(image(1)), Offer::Passed, "once is enough");
        assert!(!page.finish().more);
    }

    #[test]
    fn what_is_later_is_told() {
        let search = search(1);
        let mut page = Page::new(&search);
        assert_eq!(page.offer(image(2)), Offer::Kept);
        assert_eq!(page.offer(image(1)), Offer::Later);
        assert_eq!(page.offer(image(3)), Offer::Kept);
        assert_eq!(seconds(&page.finish()), [3]);
    }

    #[test]
    fn a_page_holds_no_more_bytes_than_its_bound() {
        let large = |second| {
            let properties = (0..4).map(|n| (format!("p{n}"), "x".repeat(65_535))).collect();
            Image { properties, ..image(second) }
        };
        let search = search(1000);
        let mut page = Page::new(&search);
        for second in 0..30 {
            page.offer(large(second));
        }
        let page = page.finish();
        assert_eq!((page.images.len(), page.more), (19, true));
        assert_eq!(seconds(&page).first(), Some(&29));
    }
}
