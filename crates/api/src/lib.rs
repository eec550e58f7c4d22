//! The Images v2 wire: routes, schemas, links, pagination, errors; over plain `http` types.
