//! Adapters: DynamoDB, S3 by region, Step Functions, HTTP sources; configuration.
