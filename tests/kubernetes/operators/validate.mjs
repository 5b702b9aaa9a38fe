// Reads manifests as a list in JSON on standard input, and prints what is wrong with each. The first argument is the node_modules folder.
import {readFileSync} from "node:fs"
import {pathToFileURL} from "node:url"

const PACKAGES = {
    "postgresql.cnpg.io": "cloudnative-pg",
    "keda.sh": "keda",
    "monitoring.coreos.com": "prometheus-operator",
    "kafka.strimzi.io": "strimzi-kafka-operator",
}
/** The same value; `looked` gets, for each object within, the names that were looked up in it. */
function watched(value, looked) {
    if (value === null || typeof value !== "object") return value
    if (looked.has(value)) return looked.get(value).proxy
    const names = new Set()
    const get = (target, name) => {
        names.add(name)
        return watched(target[name], looked)
    }
    const proxy = new Proxy(value, {get})
    looked.set(value, {proxy, names})
    return proxy
}

/** Fields that the schema does not know: nobody looked them up, though others were. Where none was looked up, any may stand. */
function* unknown(value, looked, path) {
    const names = looked.get(value)?.names
    if (!names?.size) return
    for (const [name, below] of Object.entries(value)) {
        if (!names.has(name)) yield `${path}/${name}: no such field`
        else if (below !== null && typeof below === "object") yield* unknown(below, looked, `${path}/${name}`)
    }
}

async function findings(manifest) {
    const [group, version] = manifest.apiVersion.split("/")
    if (!(group in PACKAGES)) return [`${manifest.apiVersion}: no schema for it`]
    const path = `${process.argv[2]}/@kubernetes-models/${PACKAGES[group]}/${group}/${version}/${manifest.kind}.js`
    const {[manifest.kind]: Model} = await import(pathToFileURL(path))
    const model = new Model(manifest)
    const looked = new Map()
    try {
        model.validate.call(watched(model, looked))
    } catch (error) {
        return [error.message]
    }
    return [...unknown(model, looked, "")]
}

for (const manifest of JSON.parse(readFileSync(0, "utf8")))
    for (const finding of await findings(manifest)) console.log(`${manifest.kind} ${manifest.metadata.name} ${finding}`)
