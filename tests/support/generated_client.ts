// Uploads, lists, changes and downloads a file with the TypeScript client. Standard input: {"url", "client_id", "client_secret"}.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { connect, deleteFile, getContent, getFile, headContent, listAccounts, listChanges, listFiles, patchFile } from "artstore-client";
import { replaceContent, uploadFile } from "artstore-client";

async function main(): Promise<void> {
    const given = JSON.parse(readFileSync(0, "utf8")) as Record<string, string>;
    const content = new Blob(["the bytes of a file\n".repeat(1000)], { type: "text/plain" });
    const client = connect(given.url!, { client_id: given.client_id!, client_secret: given.client_secret! });
    const wrong = connect(given.url!, { client_id: given.client_id!, client_secret: "wrong" });
    await assert.rejects(listFiles({ client: wrong }), { code: "unauthenticated" });

    const { data: made } = await uploadFile({
        client,
        body: {
            file: new File([content], "Отчёт.txt", { type: "text/plain" }),
            tags: ["generated", "from TypeScript"],
            metadata: { number: "7" },
            retention: "temporary",
        },
        throwOnError: true,
    });
    assert.equal(made.size_bytes, content.size);
    assert.deepEqual([made.tags, made.metadata], [["generated", "from TypeScript"], { number: "7" }]);
    const path = { file_id: made.file_id };

    const found = await listFiles({
        client,
        query: { tag: ["generated", "from TypeScript"], metadata: { "metadata.number": "7" } },
        throwOnError: true,
    });
    assert.equal(found.data.items[0]!.file_id, made.file_id);
    const none = await listFiles({ client, query: { tag: ["generated", "absent"] }, throwOnError: true });
    assert.deepEqual(none.data.items, []);

    assert.equal((await getFile({ client, path, throwOnError: true })).data.checksum, made.checksum);
    const got = await getContent({ client, path, parseAs: "blob", throwOnError: true });
    assert.equal(await (got.data as Blob).text(), await content.text());
    const part = await getContent({ client, path, headers: { Range: "bytes=4-8" }, parseAs: "text", throwOnError: true });
    assert.deepEqual([part.response.status, part.data as unknown], [206, "bytes"]);
    assert.equal((await headContent({ client, path })).response.status, 200);

    const changed = await patchFile({ client, path, headers: { "If-Match": '"1"' }, body: { filename: "b.txt" } });
    assert.ok(changed.data && "filename" in changed.data);
    assert.equal(changed.data.filename, "b.txt");
    const stale = await patchFile({ client, path, headers: { "If-Match": '"1"' }, body: { filename: "c.txt" } });
    assert.equal(stale.error!.code, "revision_mismatch");
    const replaced = await replaceContent({ client, path, body: new Blob(["new"]), throwOnError: true });
    assert.equal(replaced.data.size_bytes, 3);
    assert.ok((await listChanges({ client, throwOnError: true })).data.items.length > 0);
    assert.equal((await deleteFile({ client, path })).response.status, 204);
    assert.ok((await listAccounts({ client, throwOnError: true })).data.items.length > 0);
}

void main();
