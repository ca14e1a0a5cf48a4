// Uploads a file with tus-js-client and prints its file id: node tus_upload.mjs ENDPOINT FILE, the token in TOKEN.
import fs from "node:fs"
import * as tus from "tus-js-client"

const [endpoint, path] = process.argv.slice(2)
let fileId = null
const upload = new tus.Upload(fs.createReadStream(path), {
  endpoint,
  headers: { Authorization: `Bearer ${process.env.TOKEN}` },
  metadata: { filename: "drill.bin", filetype: "application/octet-stream", tags: '["tus-js-client"]' },
  retryDelays: Array(1000).fill(10),
  onAfterResponse: (_request, response) => {
    fileId = response.getHeader("X-ArtStore-File-Id") ?? fileId
  },
  onError: (error) => {
    console.error(error.message)
    process.exit(1)
  },
  onSuccess: () => console.log(fileId),
})
upload.start()
