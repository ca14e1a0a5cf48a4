"""The content type that a file's name suggests, for clients that state none.

A table of our own: that of Python's `mimetypes` depends on the version and on files of the machine, so two ingesters
could answer differently.
"""

from __future__ import annotations

from artstore.contracts.media_type import DEFAULT_CONTENT_TYPE

_BY_TYPE = {
    "application/pdf": "pdf",
    "application/rtf": "rtf",
    "application/msword": "doc dot",
    "application/vnd.ms-excel": "xls xlt",
    "application/vnd.ms-excel.sheet.binary.macroEnabled.12": "xlsb",
    "application/vnd.ms-excel.sheet.macroEnabled.12": "xlsm",
    "application/vnd.ms-outlook": "msg",
    "application/vnd.ms-powerpoint": "ppt pps",
    "application/vnd.ms-word.document.macroEnabled.12": "docm",
    "application/vnd.ms-xpsdocument": "xps",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.presentationml.slideshow": "ppsx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.template": "dotx",
    "application/vnd.oasis.opendocument.graphics": "odg",
    "application/vnd.oasis.opendocument.presentation": "odp",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.visio": "vsd",
    "application/epub+zip": "epub",
    "application/postscript": "ps eps ai",
    "image/vnd.djvu": "djvu djv",
    "image/vnd.dwg": "dwg",
    "image/vnd.dxf": "dxf",
    "application/zip": "zip",
    "application/gzip": "gz tgz",
    "application/x-7z-compressed": "7z",
    "application/x-bzip2": "bz2 tbz2",
    "application/x-tar": "tar",
    "application/x-xz": "xz txz",
    "application/zstd": "zst",
    "application/vnd.rar": "rar",
    "application/java-archive": "jar",
    "application/x-iso9660-image": "iso",
    "application/pkcs7-signature": "p7s",
    "application/pkcs7-mime": "p7m",
    "application/pgp-signature": "sig asc",
    "application/pkix-cert": "cer",
    "application/json": "json",
    "application/geo+json": "geojson",
    "application/x-ndjson": "ndjson jsonl",
    "application/xml": "xml xsd xsl",
    "application/yaml": "yaml yml",
    "application/sql": "sql",
    "application/vnd.sqlite3": "sqlite sqlite3",
    "application/vnd.apache.parquet": "parquet",
    "application/wasm": "wasm",
    "text/plain": "txt text log",
    "text/csv": "csv",
    "text/tab-separated-values": "tsv",
    "text/html": "html htm",
    "text/css": "css",
    "text/javascript": "js mjs",
    "text/markdown": "md markdown",
    "text/calendar": "ics",
    "text/vcard": "vcf",
    "message/rfc822": "eml mht mhtml",
    "image/avif": "avif",
    "image/bmp": "bmp",
    "image/gif": "gif",
    "image/heic": "heic",
    "image/heif": "heif",
    "image/jpeg": "jpg jpeg jpe",
    "image/jxl": "jxl",
    "image/png": "png",
    "image/svg+xml": "svg",
    "image/tiff": "tif tiff",
    "image/vnd.adobe.photoshop": "psd",
    "image/vnd.microsoft.icon": "ico",
    "image/webp": "webp",
    "audio/aac": "aac",
    "audio/flac": "flac",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg oga opus",
    "audio/wav": "wav",
    "video/mp4": "mp4 m4v",
    "video/mpeg": "mpeg mpg",
    "video/ogg": "ogv",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
    "video/x-msvideo": "avi",
    "font/otf": "otf",
    "font/ttf": "ttf",
    "font/woff": "woff",
    "font/woff2": "woff2",
}
_BY_EXTENSION = {
    extension: content_type.lower() for content_type, names in _BY_TYPE.items() for extension in names.split()
}


def guess_type(filename: str) -> str:
    """By the part after the last dot; application/octet-stream when it is unknown. A compressed file has the type of its
    compression, because that is what its bytes are."""
    stem, dot, extension = filename.rpartition(".")
    return _BY_EXTENSION.get(extension.lower(), DEFAULT_CONTENT_TYPE) if stem and dot else DEFAULT_CONTENT_TYPE
