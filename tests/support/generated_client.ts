// Uploads, lists and downloads a file with the TypeScript clients that @hey-api/openapi-ts has generated beside this file.
// Standard input: {"admin": URL, "ingester": URL, "query": URL, "client_id", "client_secret"}.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { client as admin } from "./admin/client.gen";
import { giveToken, listAccounts } from "./admin/sdk.gen";
import { client as ingester } from "./ingester/client.gen";
import { deleteFile, patchFile, replaceContent, uploadFile } from "./ingester/sdk.gen";
import { client as query } from "./query/client.gen";
import { getContent, getFile, headContent, listChanges, listFiles } from "./query/sdk.gen";

async function main(): Promise<void> {
    const given = JSON.parse(readFileSync(0, "utf8")) as Record<string, string>;
    const content = new Blob(["the bytes of a file\n".repeat(1000)], { type: "text/plain" });

    admin.setConfig({ baseUrl: given.admin });
    const login = await giveToken({
        body: { client_id: given.client_id!, client_secret: given.client_secret! },
        throwOnError: true,
    });
    const auth = login.data.access_token;
    admin.setConfig({ auth });
    ingester.setConfig({ baseUrl: given.ingester, auth });
    query.setConfig({ baseUrl: given.query, auth });

    const { data: made } = await uploadFile({
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
        query: { tag: ["generated", "from TypeScript"], metadata: { "metadata.number": "7" } },
        throwOnError: true,
    });
    assert.equal(found.data.items[0]!.file_id, made.file_id);
    const none = await listFiles({ query: { tag: ["generated", "absent"] }, throwOnError: true });
    assert.deepEqual(none.data.items, []);

    assert.equal((await getFile({ path, throwOnError: true })).data.checksum, made.checksum);
    const got = await getContent({ path, parseAs: "blob", throwOnError: true });
    assert.equal(await (got.data as Blob).text(), await content.text());
    const part = await getContent({ path, headers: { Range: "bytes=4-8" }, parseAs: "text", throwOnError: true });
    assert.deepEqual([part.response.status, part.data as unknown], [206, "bytes"]);
    assert.equal((await headContent({ path })).response.status, 200);

    const changed = await patchFile({ path, headers: { "If-Match": '"1"' }, body: { filename: "b.txt" } });
    assert.ok(changed.data && "filename" in changed.data);
    assert.equal(changed.data.filename, "b.txt");
    const stale = await patchFile({ path, headers: { "If-Match": '"1"' }, body: { filename: "c.txt" } });
    assert.equal(stale.error!.code, "revision_mismatch");
    const replaced = await replaceContent({ path, body: new Blob(["new"]), throwOnError: true });
    assert.equal(replaced.data.size_bytes, 3);
    assert.ok((await listChanges({ throwOnError: true })).data.items.length > 0);
    assert.equal((await deleteFile({ path })).response.status, 204);
    assert.ok((await listAccounts({ throwOnError: true })).data.items.length > 0);
}

void main();
