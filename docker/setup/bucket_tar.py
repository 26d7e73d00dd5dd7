"""The bucket $S3_BUCKET as a tar file: a backup that any other S3 store takes back.

bucket_tar.py save > bucket.tar     every object, as its key is called
bucket_tar.py load < bucket.tar     objects of the same key are replaced, others stay
"""

import io
import os
import sys
import tarfile

import boto3  # an object is held in memory whole: checkpoints are small


def save() -> int:
    """Write the tar file to stdout; returns the number of objects."""
    store, bucket, count = boto3.client("s3"), os.environ["S3_BUCKET"], 0
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
        for page in store.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for entry in page.get("Contents", []):
                body = store.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
                member = tarfile.TarInfo(entry["Key"])
                member.size, member.mtime = len(body), entry["LastModified"].timestamp()
                tar.addfile(member, io.BytesIO(body))
                count += 1
    return count


def load() -> int:
    """Put what the tar file on stdin holds; returns the number of objects."""
    store, bucket, count = boto3.client("s3"), os.environ["S3_BUCKET"], 0
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        for member in tar:
            if (file := tar.extractfile(member)) is not None:
                store.put_object(Bucket=bucket, Key=member.name, Body=file.read())
                count += 1
    return count


if __name__ == "__main__":
    verbs = {"save": save, "load": load}
    if len(sys.argv) != 2 or sys.argv[1] not in verbs:
        sys.exit(f"bucket_tar: the word must be save or load, got {sys.argv[1:]}")
    objects = verbs[sys.argv[1]]()
    print(f"{objects} objects of '{os.environ['S3_BUCKET']}'", file=sys.stderr)
