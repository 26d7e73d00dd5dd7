"""Makes the bucket $S3_BUCKET where it is not there yet, and tries whether it can be written.

boto3 finds the rest: $AWS_ENDPOINT_URL_S3, $AWS_ACCESS_KEY_ID, $AWS_SECRET_ACCESS_KEY, $AWS_DEFAULT_REGION.
"""

import os
import sys

import boto3
from botocore.exceptions import BotoCoreError, ClientError


def main() -> None:
    """Ends with 1 and one line where the store does not answer, or refuses."""
    bucket, probe = os.environ["S3_BUCKET"], "segcal-was-here"
    where = os.environ.get("AWS_ENDPOINT_URL_S3") or "AWS"
    try:
        store = boto3.client("s3")
        try:
            store.head_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
                raise
            store.create_bucket(Bucket=bucket)
            print(f"made bucket '{bucket}' at {where}")
        store.put_object(Bucket=bucket, Key=probe, Body=b"")
        store.delete_object(Bucket=bucket, Key=probe)
    except (BotoCoreError, ClientError) as error:
        sys.exit(
            f"make_bucket: bucket '{bucket}' at {where} must take files, got: {error}; see S3_ENDPOINT_URL, S3_BUCKET, "
            "S3_ACCESS_KEY_ID and the secret s3_secret_key"
        )


if __name__ == "__main__":
    main()
