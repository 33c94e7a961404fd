# nooelint: oelint.bbclass.underscores (the old layer called the class so, and recipes inherit that name)
# An image that is published as a software update stream: inherit swupd-image in its recipe.
#
# The recipe is the bundle os-core. Beside it two kinds of images are made out of the same recipe: <image>-mega holds all
# bundles and is what gets published; <image>-<name>, one for each of SWUPD_IMAGES, is a flashable image with some bundles,
# installed from the stream. What each bundle ships is worked out by swupd-server from the packages; this class only hands
# values over.

SWUPD_BUNDLES ??= ""
SWUPD_BUNDLES[doc] = "Names of the optional bundles, besides os-core"
BUNDLE_CONTENTS[doc] = "Packages of a bundle: BUNDLE_CONTENTS[name] = \"package ...\""
BUNDLE_FEATURES[doc] = "IMAGE_FEATURES of a bundle: BUNDLE_FEATURES[name] = \"feature ...\""
BUNDLE_INCLUDES[doc] = "Bundles that a bundle needs on the device: BUNDLE_INCLUDES[name] = \"other ...\""
SWUPD_EMPTY_BUNDLES ??= ""
SWUPD_EMPTY_BUNDLES[doc] = "Bundles without files, which keep a name that devices may have installed"
SWUPD_IMAGES ??= ""
SWUPD_IMAGES[doc] = "Further flashable images; SWUPD_IMAGES[name] = \"bundle ...\" says what is in each besides os-core"
OS_VERSION ??= ""
OS_VERSION[doc] = "Number of the release, 1 to 2147483647, greater than the last"
SWUPD_FORMAT ??= "30"
SWUPD_FORMAT[doc] = "Compatibility number of the stream; raise it when old agents cannot follow any more"
SWUPD_VERSION_URL ??= ""
SWUPD_VERSION_URL[doc] = "Where devices ask for the latest version"
SWUPD_CONTENT_URL ??= ""
SWUPD_CONTENT_URL[doc] = "Where devices fetch content, and where earlier releases are read if the build does not have them"
SWUPD_GENERATE ??= "1"
SWUPD_GENERATE[doc] = "0 builds the images without publishing"
SWUPD_DELTAPACK_VERSIONS ??= ""
SWUPD_DELTAPACK_VERSIONS[doc] = "Releases to make delta packs from; empty for the last SWUPD_PREVIOUS_VERSIONS"
SWUPD_PREVIOUS_VERSIONS ??= "1"
SWUPD_PREVIOUS_VERSIONS[doc] = "From how many of the last releases delta packs are made"
SWUPD_FETCH_PREVIOUS ??= "1"
SWUPD_FETCH_PREVIOUS[doc] = "1 fetches earlier releases from SWUPD_CONTENT_URL if the deploy folder has none; 0 starts a new stream"
SWUPD_FILE_BLACKLIST ??= ""
SWUPD_FILE_BLACKLIST[doc] = "Old name of SWUPD_NEVER_SHIPPED"
SWUPD_NEVER_SHIPPED ??= "${SWUPD_FILE_BLACKLIST}"
SWUPD_NEVER_SHIPPED[doc] = "Paths and patterns of files that no bundle ships: devices keep theirs"
SWUPD_SIGNING_KEY ??= ""
SWUPD_SIGNING_KEY[doc] = "Absolute path of the PEM key that signs releases"
SWUPD_SIGNING_CERTIFICATE ??= ""
SWUPD_SIGNING_CERTIFICATE[doc] = "Absolute path of its certificate, PEM, intermediates after it"
SWUPD_MANIFEST_KEY ??= ""
SWUPD_MANIFEST_KEY[doc] = "Absolute path of the PEM key that signs each bundle's manifest"
SWUPD_MANIFEST_CERTIFICATE ??= ""
SWUPD_MANIFEST_CERTIFICATE[doc] = "Absolute path of its certificate"
SWUPD_ROOT ??= ""
SWUPD_ROOT[doc] = "Absolute path of the root of trust: published, and put into the image; made by swupd-server root or keygen"
SWUPD_HEAD_KEY ??= ""
SWUPD_HEAD_KEY[doc] = "Absolute path of the PEM key that signs the head, which devices with a root of trust ask for"
SWUPD_HEAD_DAYS ??= "14"
SWUPD_HEAD_DAYS[doc] = "For how many days a head is good; swupd-server renew signs a new one in time"
SWUPD_PRODUCT ??= "${MACHINE}/${SWUPD_IMAGE}"
SWUPD_PRODUCT[doc] = "What the devices are: they refuse releases for others"
SWUPD_TRUST_FILE ??= "${SWUPD_SIGNING_CERTIFICATE}"
SWUPD_TRUST_FILE[doc] = "Absolute path of the certificate that devices trust (the old SWUPD_PINNED_PUBKEY)"
SWUPD_PINNED_PUBKEY ??= ""
SWUPD_PINNED_PUBKEY[doc] = "Old name of SWUPD_TRUST_FILE"
SWUPD_TIMESTAMP ??= "${REPRODUCIBLE_TIMESTAMP_ROOTFS}"
SWUPD_TIMESTAMP[doc] = "Unix seconds that the release carries; devices never believe a clock that is behind it"
SWUPD_SERVER_ARGS ??= ""
SWUPD_SERVER_ARGS[doc] = "Further options of swupd-server publish"
DEPLOY_DIR_SWUPD ?= "${DEPLOY_DIR}/swupd/${MACHINE}/${SWUPD_IMAGE}"
DEPLOY_DIR_SWUPD[doc] = "Where the stream is: its folder www is what a web server has to serve"

SWUPD_IMAGE ?= "${PN}"
SWUPD_WORK = "${TMPDIR}/work-shared/swupd/${MACHINE}/${SWUPD_IMAGE}"

def swupd_words(d, name):
    return (d.getVar(name) or '').split()

def swupd_names(d, name):
    """A variable's words, each of which must name a bundle or an image."""
    import re
    words = swupd_words(d, name)
    for word in words:
        if not re.fullmatch(r'[a-z0-9][a-z0-9_.+-]*', word):
            bb.fatal("%s has %r, which cannot be a name: use a-z, 0-9 and _ . + -" % (name, word))
        if words.count(word) > 1:
            bb.fatal('%s names %s twice' % (name, word))
    return words

def swupd_check_bundles(d):
    bundles = swupd_names(d, 'SWUPD_BUNDLES')
    empty = swupd_names(d, 'SWUPD_EMPTY_BUNDLES')
    for bundle in bundles:
        if not d.getVarFlag('BUNDLE_CONTENTS', bundle) and not d.getVarFlag('BUNDLE_FEATURES', bundle):
            bb.fatal('Bundle %s is empty: set BUNDLE_CONTENTS[%s], or name it in SWUPD_EMPTY_BUNDLES' % (bundle, bundle))
    for bundle in ('os-core', 'MoM', 'full', 'mega'):
        if bundle in bundles + empty:
            bb.fatal('%s is no name for an optional bundle; os-core is what the image recipe installs' % bundle)
    for bundle in set(bundles) & set(empty):
        bb.fatal('Bundle %s is in SWUPD_BUNDLES and in SWUPD_EMPTY_BUNDLES' % bundle)
    known = set(bundles + empty)
    for bundle in bundles:
        for other in (d.getVarFlag('BUNDLE_INCLUDES', bundle) or '').split():
            if other not in known:
                bb.fatal('BUNDLE_INCLUDES[%s] names %s, which is not in SWUPD_BUNDLES' % (bundle, other))
    for image in swupd_names(d, 'SWUPD_IMAGES'):
        if image == 'mega':
            bb.fatal('An image of SWUPD_IMAGES cannot be called mega: that is the one with everything')
        for bundle in (d.getVarFlag('SWUPD_IMAGES', image) or '').split():
            if bundle not in known:
                bb.fatal('SWUPD_IMAGES[%s] names %s, which is not in SWUPD_BUNDLES' % (image, bundle))

def swupd_check_settings(d):
    import os
    missing = [name for name in ('OS_VERSION', 'SWUPD_VERSION_URL', 'SWUPD_CONTENT_URL') if not d.getVar(name)]
    if missing:
        # Not an error: the recipe may only lie in a layer that was added.
        raise bb.parse.SkipRecipe('set %s to build it' % ', '.join(missing))
    for name, most in (('OS_VERSION', 2**31 - 1), ('SWUPD_FORMAT', 2**31 - 1), ('SWUPD_HEAD_DAYS', 3650)):
        text = d.getVar(name) or ''
        if not (text.isascii() and text.isdigit()) or not 0 < int(text) <= most:
            bb.fatal('%s is %r: set it to a whole number from 1 to %d' % (name, text, most))
    for version in swupd_words(d, 'SWUPD_DELTAPACK_VERSIONS') + swupd_words(d, 'SWUPD_PREVIOUS_VERSIONS'):
        if not (version.isascii() and version.isdigit()):
            bb.fatal('SWUPD_DELTAPACK_VERSIONS and SWUPD_PREVIOUS_VERSIONS hold %r, which is no number' % version)
    for key, certificate in (('SWUPD_SIGNING_KEY', 'SWUPD_SIGNING_CERTIFICATE'), ('SWUPD_MANIFEST_KEY', 'SWUPD_MANIFEST_CERTIFICATE')):
        if bool(d.getVar(key)) != bool(d.getVar(certificate)):
            bb.fatal('Set both %s and %s, or neither' % (key, certificate))
    if d.getVar('SWUPD_HEAD_KEY') and not d.getVar('SWUPD_ROOT'):
        bb.fatal('SWUPD_HEAD_KEY is set, and SWUPD_ROOT is not: no device would look at what it signs')
    later = ('--hold', '--head-signer')
    if d.getVar('SWUPD_ROOT') and not d.getVar('SWUPD_HEAD_KEY') and not any(w in swupd_words(d, 'SWUPD_SERVER_ARGS') for w in later):
        bb.fatal('SWUPD_ROOT is set: set SWUPD_HEAD_KEY as well, or devices will not see the release '
                 '(or add --hold to SWUPD_SERVER_ARGS and sign elsewhere)')
    product = d.getVar('SWUPD_PRODUCT') or ''
    if not product.isprintable() or len(product) > 200 or product != product.strip():
        bb.fatal('SWUPD_PRODUCT is %r: set it to one line of at most 200 characters' % product)
    for name in ('SWUPD_SIGNING_KEY', 'SWUPD_SIGNING_CERTIFICATE', 'SWUPD_MANIFEST_KEY', 'SWUPD_MANIFEST_CERTIFICATE', 'SWUPD_TRUST_FILE', 'SWUPD_ROOT', 'SWUPD_HEAD_KEY'):
        place = d.getVar(name) or ''
        if place and not os.path.isabs(place):
            bb.fatal('%s is %r: give an absolute path' % (name, place))
        if place and not os.path.isfile(place):
            bb.fatal('%s: there is no file %s; make keys with: swupd-server keygen DIR' % (name, place))
        if place and not os.access(place, os.R_OK):
            bb.fatal('%s: %s cannot be read by whoever builds: change its owner or its mode' % (name, place))
    for name in ('SWUPD_VERSION_URL', 'SWUPD_CONTENT_URL'):
        url = d.getVar(name) or ''
        if not url.startswith(('https://', 'http://', 'file:///')):
            bb.fatal('%s is %r: set the URL from which devices get updates' % (name, url))

# Only here are all settings of a recipe final, and BBCLASSEXTEND still open.
# nooelint: oelint.task.noanonpython
python __anonymous() {
    if d.getVar('BBEXTENDCURR') == 'swupdimage':
        return
    if d.getVar('SWUPD_PINNED_PUBKEY'):
        bb.note('SWUPD_PINNED_PUBKEY is now called SWUPD_TRUST_FILE')
        d.setVar('SWUPD_TRUST_FILE', d.getVar('SWUPD_PINNED_PUBKEY'))
    swupd_check_settings(d)
    swupd_check_bundles(d)
    images = swupd_names(d, 'SWUPD_IMAGES')
    d.appendVar('BBCLASSEXTEND', ''.join(' swupdimage:' + name for name in ['mega'] + images))
    if d.getVar('SWUPD_GENERATE') == '1':
        pn = d.getVar('PN')
        d.appendVarFlag('do_build', 'depends', ' %s-mega:do_swupd_ensure' % pn)
        for image in images:
            d.appendVarFlag('do_build', 'depends', ' %s-%s:do_build' % (pn, image))
}

# --- what every image of the stream has: its version, and where it gets the next one

# The protocol says where agents look: no distribution can move these files.
# nooelint: oelint.vars.pathhardcode.datadir,oelint.vars.pathhardcode.libdir,oelint.vars.pathhardcode.sysconfdir
python swupd_configure() {
    import os
    root = d.getVar('IMAGE_ROOTFS')

    def write(path, text):
        place = root + path
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, 'w') as f:
            f.write(text)

    defaults = '/usr/share/defaults/swupd/'
    write(defaults + 'format', d.getVar('SWUPD_FORMAT') + '\n')
    write(defaults + 'versionurl', d.getVar('SWUPD_VERSION_URL') + '\n')
    write(defaults + 'contenturl', d.getVar('SWUPD_CONTENT_URL') + '\n')
    write('/usr/share/clear/versionstamp', d.getVar('SWUPD_TIMESTAMP') + '\n')
    write('/usr/share/clear/bundles/os-core', '')
    if d.getVar('SWUPD_TRUST_FILE'):
        with open(d.getVar('SWUPD_TRUST_FILE')) as f:
            write('/usr/share/clear/update-ca/Swupd_Root.pem', f.read())
    if d.getVar('SWUPD_PRODUCT'):
        write(defaults + 'product', d.getVar('SWUPD_PRODUCT') + '\n')
    if d.getVar('SWUPD_ROOT'):
        with open(d.getVar('SWUPD_ROOT')) as f:
            write(defaults + 'root', f.read())
    release = '/usr/lib/os-release'
    lines = []
    for path in (release, '/etc/os-release'):
        if os.path.isfile(root + path) and not os.path.islink(root + path):
            with open(root + path) as f:
                lines = [line for line in f.read().splitlines() if not line.startswith('VERSION_ID=')]
            break
    write(release, '\n'.join(lines + ['VERSION_ID=' + d.getVar('OS_VERSION')]) + '\n')
}
swupd_configure[doc] = "Writes into the image its version, and where it gets the next one"
ROOTFS_POSTPROCESS_COMMAND += "swupd_configure"
do_rootfs[file-checksums] += "${@' '.join(d.getVar(v) + ':True' for v in ('SWUPD_TRUST_FILE', 'SWUPD_ROOT') if d.getVar(v))}"

# --- os-core: which paths it has

def swupd_run(d, *words, hint=''):
    """Runs one of the two tools: progress goes to BitBake's bar, the rest to the log, the reason of a failure to the user."""
    import re
    import subprocess
    command = [str(w) for w in words]
    bb.note(' '.join(command))
    said = []
    bar = bb.progress.ProgressHandler(d)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace') as process:
        for line in process.stdout:
            share = re.fullmatch(r'(.+): (\d+)%\n', line)
            if share:
                bar.update(int(share[2]), share[1])
            else:
                said.append(line)
    text = ''.join(said).strip()
    bb.note(text)
    if process.returncode:
        reason = text.splitlines()[-1] if text else '%s ended with %d' % (command[0], process.returncode)
        bb.fatal(reason + hint)
    return text

fakeroot python do_swupd_list() {
    swupd_run(d, 'swupd-server', 'list', '--rootfs', d.getVar('IMAGE_ROOTFS'), '--output', d.getVar('SWUPD_WORK') + '/core.json')
}
do_swupd_list[doc] = "Writes down what os-core consists of"
do_swupd_list[depends] += "swupd-server-native:do_populate_sysroot virtual/fakeroot-native:do_populate_sysroot"
do_swupd_list[dirs] = "${SWUPD_WORK}"
addtask swupd_list after do_image before do_image_complete

# --- the image with everything: split and published

def swupd_packages(d):
    """Installed packages of this image, with their files and needs, from what packaging wrote down."""
    import json
    import oe.packagedata
    from oe.rootfs import image_list_installed_packages
    found = {}
    for name in image_list_installed_packages(d):
        data = swupd_package_data(d, name)
        files = json.loads(data.get('FILES_INFO') or '{}')
        needs = set()
        for key in ('RDEPENDS', 'RRECOMMENDS'):
            needs |= set(bb.utils.explode_deps(data.get(key) or ''))
        found[name] = {'files': sorted(files), 'needs': sorted(needs)}
    return found

python swupd_write_packages() {
    import json
    bb.utils.mkdirhier(d.getVar('SWUPD_WORK'))
    with open(d.getVar('SWUPD_WORK') + '/packages.json', 'w') as f:
        json.dump(swupd_packages(d), f, sort_keys=True)
}
swupd_write_packages[doc] = "Writes down which packages the image with everything holds"

def swupd_package_data(d, name):
    """What packaging wrote down of an installed package, without the package's name in the keys."""
    import os
    import oe.packagedata
    place = os.path.join(d.getVar('PKGDATA_DIR'), 'runtime-reverse', name)
    data = oe.packagedata.read_pkgdatafile(place) if os.path.exists(place) else {}
    return {key.split(':')[0]: value for key, value in data.items()}

def swupd_bundle_words(d):
    """What the tools are told of bundles."""
    words = []
    for bundle in ['os-core'] + swupd_words(d, 'SWUPD_BUNDLES'):
        for other in (d.getVarFlag('BUNDLE_INCLUDES', bundle) or '').split():
            words += ['--include', '%s=%s' % (bundle, other)]
    return words

def swupd_history_words(d):
    """From which releases deltas are made."""
    versions = swupd_words(d, 'SWUPD_DELTAPACK_VERSIONS')
    return ['--delta-from', ','.join(versions)] if versions else ['--previous-versions', d.getVar('SWUPD_PREVIOUS_VERSIONS')]

def swupd_publish_words(d):
    """The options of swupd-server publish."""
    work = d.getVar('SWUPD_WORK')
    words = ['--www', d.getVar('DEPLOY_DIR_SWUPD') + '/www', '--version', d.getVar('OS_VERSION'), '--format', d.getVar('SWUPD_FORMAT')]
    words += ['--rootfs', d.getVar('IMAGE_ROOTFS'), '--jobs', d.getVar('BB_NUMBER_THREADS') or '1', '--quiet', '--percent']
    for bundle in ['os-core'] + swupd_words(d, 'SWUPD_BUNDLES') + swupd_words(d, 'SWUPD_EMPTY_BUNDLES'):
        words += ['--content', '%s=%s/split/%s.content' % (bundle, work, bundle)]
    words += swupd_bundle_words(d) + swupd_history_words(d) + swupd_key_words(d)
    further = (('--manifest-key', 'SWUPD_MANIFEST_KEY'), ('--manifest-certificate', 'SWUPD_MANIFEST_CERTIFICATE'), ('--root', 'SWUPD_ROOT'), ('--product', 'SWUPD_PRODUCT'))
    for option, name in further:
        if d.getVar(name):
            words += [option, d.getVar(name)]
    return words + swupd_words(d, 'SWUPD_SERVER_ARGS')

def swupd_key_words(d):
    words = []
    if d.getVar('SWUPD_SIGNING_KEY'):
        words += ['--signing-key', d.getVar('SWUPD_SIGNING_KEY'), '--certificate', d.getVar('SWUPD_SIGNING_CERTIFICATE')]
    if d.getVar('SWUPD_HEAD_KEY'):
        words += ['--head-key', d.getVar('SWUPD_HEAD_KEY'), '--head-days', d.getVar('SWUPD_HEAD_DAYS')]
    return words

def swupd_flags(d):
    """What flags say of the bundles: BitBake's signatures see variables only."""
    names = swupd_words(d, 'SWUPD_BUNDLES')
    return ' '.join('%s:%s:%s' % (b, d.getVarFlag('BUNDLE_CONTENTS', b), d.getVarFlag('BUNDLE_INCLUDES', b)) for b in ['os-core'] + names)

def swupd_findings(d, place):
    """Hands what the split found to the QA of the build (ERROR_QA, WARN_QA)."""
    import json
    import oe.qa
    with open(place) as f:
        found = json.load(f)
    for finding in found['closure']:
        also = '' if finding['packages'] else swupd_having(d, finding['kind'], finding['missing'])
        oe.qa.handle_error('swupd-closure', finding['text'] + also, d)
    for finding in found['difference']:
        oe.qa.handle_error('swupd-difference', finding['text'], d)
    oe.qa.exit_if_errors(d)

def swupd_having(d, kind, missing):
    """Words for the packages that have what no package of the image has: those that were built, but not installed."""
    import glob
    import os
    folder, pattern = {'library': ('shlibs2', missing + ':'), 'interpreter': ('runtime', '"%s":' % missing)}.get(kind, ('', ''))
    names = set()
    for place in glob.glob(os.path.join(d.getVar('PKGDATA_DIR'), folder, '*')) if folder else []:
        if os.path.isfile(place):
            with open(place, errors='replace') as f:
                if pattern in f.read():
                    names.add(os.path.basename(place).removesuffix('.list'))
    return ' (install %s)' % ' or '.join(sorted(names)) if names else ''

WARN_QA:append = " swupd-closure swupd-difference"

python swupd_fetch_previous() {
    import os
    import oe.path
    place = d.getVar('SWUPD_WORK') + '/previous'
    oe.path.remove(place)
    if d.getVar('SWUPD_FETCH_PREVIOUS') != '1' or swupd_earlier(d):
        return
    url = d.getVar('SWUPD_CONTENT_URL')
    hint = ' (SWUPD_CONTENT_URL is %s; if it never had a release, set SWUPD_FETCH_PREVIOUS = "0")' % url
    if bb.utils.to_boolean(d.getVar('BB_NO_NETWORK')) and not url.startswith('file:'):
        bb.fatal('%s/www has no earlier release, and BB_NO_NETWORK forbids to fetch one%s' % (d.getVar('DEPLOY_DIR_SWUPD'), hint))
    trust = ['--previous-certificate', d.getVar('SWUPD_TRUST_FILE')] if d.getVar('SWUPD_TRUST_FILE') else []
    words = ['--url', url, '--output', place, '--format', d.getVar('SWUPD_FORMAT'), '--percent'] + swupd_history_words(d) + trust
    bb.plain(swupd_run(d, 'swupd-server', 'fetch', *words, hint=hint))
    bb.utils.mkdirhier(place)
}
swupd_fetch_previous[doc] = "Copies earlier releases from SWUPD_CONTENT_URL, if the deploy folder has none"

def swupd_earlier(d):
    """Whether the deploy folder has a release before this one."""
    import glob
    import os
    found = glob.glob(d.getVar('DEPLOY_DIR_SWUPD') + '/www/*/Manifest.MoM')
    versions = [os.path.basename(os.path.dirname(place)) for place in found]
    return any(v.isdigit() and int(v) < int(d.getVar('OS_VERSION')) for v in versions)

def swupd_previous_words(d):
    """Where publish finds the releases before: in the deploy folder, or in what was fetched."""
    import os
    place = d.getVar('SWUPD_WORK') + '/previous'
    if swupd_earlier(d) or d.getVar('SWUPD_FETCH_PREVIOUS') != '1':
        return []
    if not os.path.isdir(place):
        bb.fatal('%s/www had earlier releases when this build began, but has none now: put them back, or fetch them with: '
                 'bitbake -C fetch %s' % (d.getVar('DEPLOY_DIR_SWUPD'), d.getVar('PN')))
    return ['--previous-url', 'file://' + place]

def swupd_publish(d):
    """Splits the image into bundles and publishes them, in place of what an earlier run of this very version published."""
    work = d.getVar('SWUPD_WORK')
    www = d.getVar('DEPLOY_DIR_SWUPD') + '/www'
    words = swupd_bundle_words(d)
    for bundle in swupd_words(d, 'SWUPD_BUNDLES'):
        words += ['--bundle', '%s=%s' % (bundle, ','.join((d.getVarFlag('BUNDLE_CONTENTS', bundle) or '').split()))]
    for bundle in swupd_words(d, 'SWUPD_EMPTY_BUNDLES'):
        words += ['--bundle', bundle + '=']
    swupd_run(d, 'swupd-server', 'split', '--rootfs', d.getVar('IMAGE_ROOTFS'), '--core', work + '/core.json', '--packages', work + '/packages.json', '--output', work + '/split', *words)
    swupd_findings(d, work + '/split/findings.json')
    extra = []
    if swupd_words(d, 'SWUPD_NEVER_SHIPPED'):
        with open(work + '/never-shipped', 'w') as f:
            f.write('\n'.join(swupd_words(d, 'SWUPD_NEVER_SHIPPED')) + '\n')
        extra = ['--exclude', work + '/never-shipped']
    # Nobody can have this version yet, since it is this build's own.
    swupd_run(d, 'swupd-server', 'withdraw', '--www', www, '--version', d.getVar('OS_VERSION'), *swupd_key_words(d))
    said = swupd_run(d, 'swupd-server', 'publish', *swupd_publish_words(d), *swupd_previous_words(d), *extra, hint=' (OS_VERSION is %s)' % d.getVar('OS_VERSION'))
    bb.plain('\n'.join(['Published version %s to %s' % (d.getVar('OS_VERSION'), www)] + said.splitlines()))

fakeroot python do_swupd_publish() {
    swupd_publish(d)
}
do_swupd_publish[doc] = "Splits the image into bundles and publishes them as the next release"
do_swupd_publish[depends] += "${SWUPD_IMAGE}:do_swupd_list swupd-server-native:do_populate_sysroot virtual/fakeroot-native:do_populate_sysroot"
do_swupd_publish[dirs] = "${SWUPD_WORK} ${DEPLOY_DIR_SWUPD}"
do_swupd_publish[file-checksums] += "${@' '.join(d.getVar(v) + ':True' for v in ('SWUPD_SIGNING_KEY', 'SWUPD_SIGNING_CERTIFICATE', 'SWUPD_MANIFEST_KEY', 'SWUPD_MANIFEST_CERTIFICATE', 'SWUPD_ROOT', 'SWUPD_HEAD_KEY') if d.getVar(v))}"
do_swupd_publish[vardepvalue] = "${@swupd_flags(d)}"
# Read through swupd_words, where BitBake does not see them.
do_swupd_publish[vardeps] += "SWUPD_BUNDLES SWUPD_EMPTY_BUNDLES SWUPD_DELTAPACK_VERSIONS SWUPD_NEVER_SHIPPED SWUPD_SERVER_ARGS"
do_swupd_publish[lockfiles] = "${DEPLOY_DIR_SWUPD}/lock"

# A deploy folder is not an input that BitBake watches: whoever removed it gets the release back with the next build.
fakeroot python do_swupd_ensure() {
    import os
    www = d.getVar('DEPLOY_DIR_SWUPD') + '/www'
    if os.path.isfile('%s/%s/Manifest.MoM' % (www, d.getVar('OS_VERSION'))):
        return
    if not os.path.isdir(d.getVar('IMAGE_ROOTFS')):
        bb.fatal('Version %s is gone from %s: publish it again with: bitbake -C rootfs %s' % (d.getVar('OS_VERSION'), www, d.getVar('PN')))
    swupd_publish(d)
}
do_swupd_ensure[doc] = "Publishes the release again if it was removed from the deploy folder"
do_swupd_ensure[nostamp] = "1"
do_swupd_ensure[dirs] = "${SWUPD_WORK} ${DEPLOY_DIR_SWUPD}"
do_swupd_ensure[lockfiles] = "${DEPLOY_DIR_SWUPD}/lock"
